"""The fork: into the namespaces and the cgroup v2 a container was given, with its init on the other side."""

from __future__ import annotations

import os
import sys

from agent.kernel import namespaces as ns
from agent.kernel.process import close_all_but
from agent.runtime.keeper.become import Standing
from agent.runtime.keeper.config import ContainerPlan
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.hierarchies import Hierarchy, find_hierarchy, read_hierarchies
from agent.runtime.keeper.init import Init
from agent.runtime.keeper.order import Order
from agent.runtime.keeper.report import Line, Reporter, create_line
from agent.runtime.keeper.reserved import ReservedInit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Launcher:
    """Knows what every launch needs of the host: its cgroup hierarchies and this process's own rights."""

    def __init__(self) -> None:
        self.standing = Standing()
        self._hierarchies = read_hierarchies()
        self._mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def sort_cgroups(self, join: list[str]) -> tuple[list[Hierarchy], list[str], str | None]:
        """The hierarchies of ``join``, its v1 directories and its v2 directory. Raises Failure for a stray path."""
        hierarchies, tasks, unified = [], [], None
        for directory in join:
            hierarchy = find_hierarchy(self._hierarchies, directory)
            if hierarchy is None:
                self._hierarchies = read_hierarchies()
                hierarchy = find_hierarchy(self._hierarchies, directory)
            if hierarchy is None:
                raise Failure("InvalidRequest", f"{directory} is in no cgroup hierarchy")
            hierarchies.append(hierarchy)
            if hierarchy.version == 2:
                unified = directory
            else:
                tasks.append(directory)
        return hierarchies, tasks, unified

    def launch(self, order: Order, plan: ContainerPlan, directory: str) -> tuple[int, int, Line]:
        """Fork a container's init: ``(pid, pidfd, line)``. It reports on the line. Raises Failure."""
        hierarchies, tasks, unified = self.sort_cgroups(order.join)
        line, report = create_line()
        init = Init(order, plan, directory, report)
        init.hierarchies, init.tasks, init.standing = hierarchies, tasks, self.standing
        flags = plan.namespaces & ~ns.CLONE_NEWCGROUP
        if order.netns or plan.netns:
            flags &= ~ns.CLONE_NEWNET
        pid, pidfd = fork(flags, unified, report, init.run)
        return pid, pidfd, line

    def launch_reserve(self, join: list[str], plan: ContainerPlan, directory: str) -> tuple[int, int, Line]:
        """Fork the init of a reserve, whose order comes later: ``(pid, pidfd, line)``. Raises Failure."""
        hierarchies, tasks, unified = self.sort_cgroups(join)
        line, report = create_line()
        init = ReservedInit(None, plan, directory, report)
        init.hierarchies, init.tasks, init.standing = hierarchies, tasks, self.standing
        init.host = self._mounts
        flags = plan.namespaces & ~(ns.CLONE_NEWCGROUP | ns.CLONE_NEWNET)
        pid, pidfd = fork(flags, unified, report, init.run, (self._mounts,))
        return pid, pidfd, line


def fork(
    flags: int, unified: str | None, report: Reporter, action: Callable[[], None], keep: tuple[int, ...] = ()
) -> tuple[int, int]:
    """Run ``action`` in a child; ``(pid, pidfd)`` here. Of our descriptors it keeps ``keep``."""
    cgroup = None
    try:
        if unified is not None:
            cgroup = os.open(unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        pid, pidfd = ns.clone(flags, cgroup)
    except OSError as error:
        raise Failure("SetupFailed", f"fork: {explain(error)}") from None
    finally:
        if cgroup is not None:
            os.close(cgroup)
    if pid:
        report.close()
        return pid, pidfd
    try:
        close_all_but(3, report.channel, *keep)
        action()
    except BaseException as error:
        _report(report, error)
    finally:
        os._exit(125)


def _report(report: Reporter, error: BaseException) -> None:
    try:
        report.fail(error)
    except BaseException:
        sys.excepthook(*sys.exc_info())
