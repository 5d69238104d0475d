"""The child of an exec: from the fork to execve, into the container's namespaces."""

from __future__ import annotations

import os

from agent.kernel import namespaces as ns
from agent.kernel import terminals
from agent.kernel.process import read_small_file
from agent.runtime.keeper.become import NOT_EXECUTABLE, Standing, become, set_stdio, take_terminal
from agent.runtime.keeper.failure import Failure
from agent.runtime.keeper.init import MAX_FILTER
from agent.runtime.keeper.paths import open_inside, open_working_directory
from agent.runtime.keeper.report import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.keeper.config import ProcessPlan
    from agent.runtime.keeper.container import Container

_ALL = ns.CLONE_NEWNS | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWNET | ns.CLONE_NEWCGROUP


class Entry:
    """A flat list of steps, as in ``init``: host things first, then the namespaces, then the common end."""

    __slots__ = ("_container", "_plan", "_program", "_root", "_slave", "fds", "report", "size", "standing", "tasks")

    def __init__(self, container: Container, plan: ProcessPlan, fds: list[int], report: Reporter) -> None:
        self._container = container
        self._plan = plan
        self.fds = fds
        self._program: bytes | None = None
        self._root = self._slave = -1
        self.report = report
        self.size: tuple[int, int] | None = None
        self.standing: Standing
        self.tasks: list[str] = []

    def run(self) -> None:
        """Never returns but by an exception."""
        self._take_from_host()
        self._enter()
        self._enter_directory()
        os.setsid()
        if self.size is not None:
            self._open_terminal()
        else:
            set_stdio(*self.fds[:3])
        become(self._plan, self._program, self.standing, self.report)

    def _take_from_host(self) -> None:
        self.standing.shed()
        for directory in self.tasks:
            self.report.step = f"join cgroup {directory}"
            descriptor = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
            os.write(descriptor, b"0")
            os.close(descriptor)
        if self._container.order.seccomp:
            self.report.step = "read the seccomp filter"
            self._program = read_small_file(self._container.order.seccomp, MAX_FILTER)

    def _enter(self) -> None:
        self.report.step = "enter the container"
        ns.enter(self._container.pidfd, _ALL)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _enter_directory(self) -> None:
        try:
            os.fchdir(open_working_directory(self._root, self._plan.cwd))
        except OSError as error:
            raise Failure(NOT_EXECUTABLE, f"change to directory {self._plan.cwd}: {error.strerror}") from None

    def _open_terminal(self) -> None:
        self.report.step = "make the terminal"
        devpts = open_inside(self._root, "/dev/pts", os.O_DIRECTORY, links=False)
        master, self._slave = terminals.open_terminal(devpts)
        os.fchown(self._slave, self._plan.uid, -1)
        terminals.set_size(self._slave, *(self.size or (24, 80)))
        self.report.ready(master)
        os.close(master)
        take_terminal(self._slave)
