"""The init of a reserve: forked before anybody knows what will run, it does ahead all that is the same every time.

It waits in namespaces and cgroups of its own with a ``/proc`` and a ``/dev`` ready on a stage: a tmpfs that is all of
its mount namespace, so that it holds no mount of the host. Its next word brings the root and the network
namespace, the one after that the order; the rest is done as every init does it. What does not fit an order is no error
of the order: the keeper then forks an ordinary init.
"""

from __future__ import annotations

import os

from agent.kernel import mounts as m
from agent.kernel import namespaces as ns
from agent.kernel.process import set_name
from agent.runtime.keeper import devices as dev
from agent.runtime.keeper import rootfs
from agent.runtime.keeper.config import ContainerPlan, parse_config, read_config, refuse_nul
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.init import Init, create_private_proc
from agent.runtime.keeper.mountplan import MountPlan
from agent.runtime.keeper.order import Board, Order
from agent.runtime.keeper.rehearsal import rehearse
from agent.runtime.keeper.report import BOARD, ORDER
from agent.runtime.wire import decode

UNFIT = "Unfit"
_STAGED = ("/proc", "/dev", "/sys")
_LATE = "/sys"  # a sysfs shows the network namespace it is mounted in
_ROOT, _PROC = "/root", "/private"  # of the stage
_CGROUPS = "/cgroups"  # until there is a /sys


class ReservedInit(Init):
    """``standard`` is what the container will have in common with all others: namespaces, mounts, covered paths."""

    __slots__ = ("board", "host", "own", "proc", "standard")

    board: Board | None
    host: int
    own: int
    proc: int
    standard: ContainerPlan

    def run(self) -> None:
        """Prepare, and go on as far as the words from the keeper lead."""
        self.standard, self.board = self.plan, None
        order = self.await_order()
        if order is not None:
            self.carry_out(order)

    def await_order(self) -> Order | None:
        """Go on as far as the keeper's words lead; None when it has died. Raises Failure Unfit for whatever fails."""
        try:
            self.prepare()
            kind, text = self.report.wait_word()
            if kind == BOARD:
                self.come_aboard(Board(decode(text)["request"]))
                kind, text = self.report.wait_word()
            if kind != ORDER:
                return None
            refuse_nul(text)
            return self.check_fit(Order(decode(text)["request"]))
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise Failure(UNFIT, f"{self.report.step}: {explain(error)}") from None

    def prepare(self) -> None:
        """What can be done before anybody knows anything of the container."""
        self.own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        set_name("holdfast-init")
        os.umask(0)
        self.join_cgroups()
        self.report.step = "take the ordinary OOM score"
        self.standing.shed()
        self.open_stdio(piped=True)
        self.report.step = "take the host's devices"
        self.devices = dev.clone_devices()
        self.make_stage()
        self.report.step = "rehearse an order"
        rehearse()

    def make_stage(self) -> None:
        """What needs neither root nor network."""
        self.report.step = "make a cgroup namespace"
        ns.unshare(ns.CLONE_NEWCGROUP)
        self.report.step = "make the stage"
        m.mount(None, "/", None, m.MS_SLAVE | m.MS_REC)
        m.mount("tmpfs", self.directory, "tmpfs", m.MS_NOSUID | m.MS_NODEV, "mode=700")
        self.root = rootfs.pivot(self.directory)
        for path in (_ROOT, _PROC, _LATE):
            os.mkdir(path, 0o755 if path == _LATE else 0o700)
        self.proc = create_private_proc()
        self.attach(self.proc, _PROC)  # to close what is mounted nowhere would take an RCU grace period
        self._mount_staged(late=False)
        self.report.step = "fill /dev"
        dev.fill_dev(self.mounted["/dev"], self.devices)
        self._cover_staged(late=False)

    def come_aboard(self, board: Board) -> None:
        """What needs the root and the network, but not yet what will run."""
        self.visit_host()
        self.join_network(board.netns)
        self.report.step = "make the root filesystem"
        overlay = rootfs.create_overlay(board)
        self.return_home()
        self.attach(overlay, _ROOT)
        self.leave_stage()
        self.board = board

    def attach(self, source: int, place: str) -> None:
        """Mount what is detached on the stage."""
        target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        m.attach_mount(source, target)
        os.close(target)

    def visit_host(self) -> None:
        """See the host's mounts as they are now: what was mounted after the fork may never have come to ours."""
        self.report.step = "look at the host's mounts"
        ns.enter(self.host, ns.CLONE_NEWNS)

    def return_home(self) -> None:
        """Back to our own mounts."""
        self.report.step = "leave the host's mounts"
        ns.enter(self.own, ns.CLONE_NEWNS)

    def _mount_staged(self, *, late: bool) -> None:
        for index, plan in enumerate(self.standard.mounts):
            if plan.kind == "cgroup" and not late:
                self.mount_one(index, plan.at(_CGROUPS))
            elif plan.kind == "cgroup":
                rootfs.place(self.root, plan, self.mounted[_CGROUPS])
            elif _is_below(plan.destination, _LATE) == late:
                self.mount_one(index, plan)

    def _cover_staged(self, *, late: bool) -> None:
        masked, readonly = self.standard.masked, self.standard.readonly_paths
        self.cover(
            [path for path in masked if _is_below(path, _LATE) == late],
            [path for path in readonly if _is_below(path, _LATE) == late],
        )

    def check_fit(self, order: Order) -> Order:
        """The order again, with the host's mounts in sight. Raises Failure Unfit when it does not fit what is ready."""
        self.report.step = "fit the order"
        self.visit_host()
        config = order.config
        self.plan = read_config(order.bundle) if config is None else parse_config(config)
        complete = order.seccomp is not None or not self.plan.seccomp
        fitting = (
            adds(self.standard, self.plan) if config and config.get("standard") else fits(self.standard, self.plan)
        )
        if not complete or self.board is None or not self.board.fits(order) or not fitting:
            raise Failure(UNFIT, "the reserve is not what the order needs")
        return order

    def carry_out(self, order: Order) -> None:
        """The steps that are left."""
        self.order = order
        if self.plan.process.terminal or order.log_directory is None:
            self.open_stdio(piped=False)
        self.take_asked()
        self.return_home()
        self.mount_all()
        self.make_terminal()
        self.write_proc()
        self.finish_root()
        self.await_go()

    def leave_stage(self) -> None:
        """Move what is on the stage into the root, add what was missing, and enter it."""
        self.root = os.open(_ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for plan in self.standard.mounts:
            if plan.destination in _STAGED and plan.destination != _LATE:
                self.report.step = f"mount {plan.destination}"
                rootfs.place(self.root, plan, self.mounted[plan.destination])
        self._mount_staged(late=True)
        self._cover_staged(late=True)
        self.report.step = "enter the root filesystem"
        self.root = rootfs.pivot(_ROOT)

    def mount_all(self) -> None:
        """The mounts that are the order's own."""
        staged = {plan.destination for plan in self.standard.mounts}
        for index, plan in enumerate(self.plan.mounts):
            if plan.destination not in staged:
                self.mount_one(index, plan)

    def writable_proc(self) -> int:
        """The one of ours: what is mounted has been protected already."""
        return self.proc


def check_standard(standard: ContainerPlan) -> None:
    """Raise Failure for what cannot be prepared ahead."""
    found = {plan.destination: plan.kind for plan in standard.mounts}
    if [found.get(path) for path in _STAGED] != ["proc", "tmpfs", "sysfs"]:
        raise Failure("InvalidRequest", "reserve: proc, tmpfs and sysfs have to be mounted at /proc, /dev and /sys")
    if any(plan.kind == "bind" or not _is_staged(plan.destination) for plan in standard.mounts):
        raise Failure("InvalidRequest", "reserve: only filesystems of the kernel below /proc, /dev and /sys")
    if not standard.namespaces & ns.CLONE_NEWCGROUP:
        raise Failure("InvalidRequest", "reserve: a cgroup namespace is needed")


def fits(standard: ContainerPlan, plan: ContainerPlan) -> bool:
    """Whether a container of this plan is one of those that were prepared for, with mounts of its own beside."""
    if (plan.namespaces, plan.masked, plan.readonly_paths) != (
        standard.namespaces, standard.masked, standard.readonly_paths,
    ):  # fmt: skip
        return False
    own = {mount.destination: mount for mount in plan.mounts}
    if not all(_is_same(own.pop(mount.destination, None), mount) for mount in standard.mounts):
        return False
    return not any(_is_taken(destination) for destination in own)


def adds(standard: ContainerPlan, plan: ContainerPlan) -> bool:
    """The same for a plan that has only what comes beside."""
    return plan.namespaces == standard.namespaces and not any(_is_taken(mount.destination) for mount in plan.mounts)


def _is_same(mount: MountPlan | None, standard: MountPlan) -> bool:
    return mount is not None and mount.equals(standard)


def _is_taken(destination: str) -> bool:
    """Whether something that was prepared is, or may be, at this place."""
    if _is_below(destination, "/dev"):
        return destination.split("/")[2] in dev.NAMES
    return _is_staged(destination)


def _is_staged(path: str) -> bool:
    return any(_is_below(path, top) for top in _STAGED)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
