"""The first process of a container, from the fork to execve: a flat list of steps.

Each step has a name; an error is reported with it. Steps up to ``enter_root`` still see the host's files, those
after it never do.
"""

from __future__ import annotations

import os

from agent.kernel import mounts as m
from agent.kernel import namespaces as ns
from agent.kernel import terminals
from agent.kernel.process import read_small_file, set_name
from agent.runtime.keeper import devices as dev
from agent.runtime.keeper import masks, rootfs
from agent.runtime.keeper.become import Standing, become, set_stdio, take_terminal
from agent.runtime.keeper.config import ContainerPlan, compute_sysctl_path
from agent.runtime.keeper.paths import ensure_directory, open_working_directory
from agent.runtime.keeper.report import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.keeper.hierarchies import Hierarchy
    from agent.runtime.keeper.mountplan import MountPlan
    from agent.runtime.keeper.order import Order

MAX_FILTER = 64 << 10


class Init:
    """The state the steps share: what was asked, and the descriptors taken so far."""

    __slots__ = (
        "binds", "covers", "devices", "directory", "hierarchies", "master", "mounted", "order", "plan", "program",
        "report", "root", "slave", "standing", "stdio", "tasks",
    )  # fmt: skip

    order: Order

    def __init__(self, order: Order | None, plan: ContainerPlan, directory: str, report: Reporter) -> None:
        if order is not None:
            self.order = order
        self.plan = plan
        self.directory = directory
        self.report = report
        self.hierarchies: list[Hierarchy] = []
        self.tasks: list[str] = []
        self.standing: Standing
        self.program: bytes | None = None
        self.binds: dict[int, int] = {}
        self.devices: dict[str, int] = {}
        self.mounted: dict[str, int] = {}
        self.covers: masks.Covers | None = None
        self.stdio: list[int] = []
        self.root = self.master = self.slave = -1

    def run(self) -> None:
        """Set everything up, wait for the word, become the program. Returns only when the keeper has died."""
        os.umask(0)
        self.join_cgroups()
        self.take_from_host()
        self.enter_namespaces()
        self.enter_root()
        self.mount_all()
        self.fill_dev()
        self.write_proc()
        self.protect()
        self.await_go()

    def await_go(self) -> None:
        """The last steps: wait for the word, become the program."""
        self.name_host()
        self.enter_directory()
        self.report.ready(self.master if self.plan.process.terminal else None)
        if self.report.wait_go():
            self.take_stdio()
            become(self.plan.process, self.program, self.standing, self.report)

    def join_cgroups(self) -> None:
        """Enter the cgroup v1 hierarchies; the clone itself entered v2.

        The old ``tasks`` file, because moving the calling thread takes no lock for which the kernel would wait for
        an RCU grace period (10 ms); ``cgroup.procs`` does.
        """
        for directory in self.tasks:
            self.report.step = f"join cgroup {directory}"
            descriptor = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
            os.write(descriptor, b"0")
            os.close(descriptor)

    def take_from_host(self) -> None:
        """Open everything that comes from the host: log pipes, the filter, devices, bind sources."""
        self.report.step = "take the ordinary OOM score"
        self.standing.shed()
        self.open_stdio(piped=self.order.log_directory is not None and not self.plan.process.terminal)
        self.report.step = "take the host's devices"
        self.devices = dev.clone_devices()
        self.take_asked()

    def open_stdio(self, *, piped: bool) -> None:
        """The descriptors that become the standard ones."""
        self.report.step = "open the log pipes"
        self.stdio = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)]
        for name in ("stdout", "stderr"):
            path = f"{self.directory}/{name}" if piped else "/dev/null"
            self.stdio.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def take_asked(self) -> None:
        """What the order names on the host: the filter and the sources of binds."""
        if self.order.seccomp:
            self.report.step = "read the seccomp filter"
            self.program = read_small_file(self.order.seccomp, MAX_FILTER)
        for index, plan in enumerate(self.plan.mounts):
            if plan.kind == "bind":
                self.report.step = f"mount {plan.destination}"
                self.binds[index] = self._clone_bind(index)

    def _clone_bind(self, index: int) -> int:
        plan = self.plan.mounts[index]
        try:
            return rootfs.clone_bind(plan)
        except OSError as error:
            raise OSError(error.errno, error.strerror, plan.source) from None

    def enter_namespaces(self) -> None:
        """Join the network namespace that was made ahead; make the cgroup namespace now that the cgroups are joined."""
        netns = self.order.netns or self.plan.netns
        if netns:
            self.join_network(netns)
        if self.plan.namespaces & ns.CLONE_NEWCGROUP:
            self.report.step = "make a cgroup namespace"
            ns.unshare(ns.CLONE_NEWCGROUP)

    def join_network(self, netns: str) -> None:
        """Enter a network namespace by its path."""
        self.report.step = f"join network namespace {netns}"
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        ns.enter(descriptor, ns.CLONE_NEWNET)
        os.close(descriptor)

    def enter_root(self) -> None:
        """Mount the overlay in our own mount namespace only, and leave the host's tree behind."""
        self.report.step = "cut off the host's mounts"
        m.mount(None, "/", None, m.MS_SLAVE | m.MS_REC)
        self.report.step = "mount the root filesystem"
        rootfs.mount_overlay(self.order, self.directory)
        self.report.step = "enter the root filesystem"
        self.root = rootfs.pivot(self.directory)

    def mount_all(self) -> None:
        """The mounts of config.json in their order."""
        for index, plan in enumerate(self.plan.mounts):
            self.mount_one(index, plan)

    def mount_one(self, index: int, plan: MountPlan) -> None:
        """One of them; ``index`` is its place in the list."""
        self.report.step = f"mount {plan.destination}"
        if plan.kind == "bind":
            rootfs.attach_bind(self.root, plan, self.binds[index])
        elif plan.kind == "cgroup":
            private = bool(self.plan.namespaces & ns.CLONE_NEWCGROUP)
            self.mounted[plan.destination] = rootfs.mount_cgroups(self.root, plan, self.hierarchies, private=private)
        else:
            self.mounted[plan.destination] = rootfs.mount_filesystem(self.root, plan)

    def fill_dev(self) -> None:
        """Devices and console, when /dev is a fresh tmpfs of ours."""
        if "/dev" in self.mounted:
            self.report.step = "fill /dev"
            dev.fill_dev(self.mounted["/dev"], self.devices)
        self.make_terminal()

    def make_terminal(self) -> None:
        """The terminal and the console, where they are asked for."""
        if self.plan.process.terminal:
            self.report.step = "make the terminal"
            if "/dev/pts" not in self.mounted or "/dev" not in self.mounted:
                raise OSError(19, "a terminal needs mounts for /dev and /dev/pts")
            self.master, self.slave = terminals.open_terminal(self.mounted["/dev/pts"])
            os.fchown(self.slave, self.plan.process.uid, -1)
            dev.attach_console(self.mounted["/dev"], self.slave)

    def write_proc(self) -> None:
        """sysctls and the OOM score, through the procfs we mounted ourselves or a private one."""
        score = self.plan.process.oom_score_adj
        if not self.plan.sysctls and score is None:
            return
        proc = self.writable_proc()
        for key, value in self.plan.sysctls.items():
            self.report.step = f"set sysctl {key}"
            masks.write_proc(proc, f"sys/{compute_sysctl_path(key)}", value)
        if score is not None:
            self.report.step = "set the OOM score"
            try:
                masks.write_proc(proc, f"{os.getpid()}/oom_score_adj", str(score))
            except PermissionError:
                if score > 0:
                    raise

    def writable_proc(self) -> int:
        """A procfs of these namespaces in which nothing is read-only."""
        mounted = self.mounted.get("/proc")
        return create_private_proc() if mounted is None else mounted

    def protect(self) -> None:
        """Mask paths, make paths read-only, and the root itself when it is to be."""
        self.cover(self.plan.masked, self.plan.readonly_paths)
        self.finish_root()

    def cover(self, masked: list[str], readonly: list[str]) -> None:
        """Hide the one and make the other read-only."""
        self.report.step = "mask paths"
        if self.covers is None:
            self.covers = masks.Covers(self.devices["null"], attached="/dev" in self.mounted)
        masks.mask(self.root, masked, self.covers)
        self.report.step = "make paths read-only"
        masks.make_readonly(self.root, readonly)

    def finish_root(self) -> None:
        """Make the working directory, then the root read-only when it is to be."""
        self.report.step = f"change to directory {self.plan.process.cwd}"
        os.close(ensure_directory(self.root, self.plan.process.cwd))
        if self.plan.readonly:
            self.report.step = "make the root filesystem read-only"
            m.set_attributes(self.root, m.ATTR_RDONLY)

    def name_host(self) -> None:
        """Host name and domain name."""
        self.report.step = "set the host name"
        if self.plan.hostname:
            ns.set_hostname(self.plan.hostname)
        if self.plan.domainname:
            ns.set_domainname(self.plan.domainname)

    def enter_directory(self) -> None:
        """The working directory, resolved without links of /proc (attack row 2)."""
        self.report.step = f"change to directory {self.plan.process.cwd}"
        os.fchdir(open_working_directory(self.root, self.plan.process.cwd))
        set_name("holdfast-init")

    def take_stdio(self) -> None:
        """The standard descriptors: log pipes or the terminal."""
        self.report.step = "set the standard descriptors"
        os.setsid()
        if self.plan.process.terminal:
            take_terminal(self.slave)
        else:
            set_stdio(*self.stdio)


def create_private_proc() -> int:
    """A procfs of the current namespaces that is mounted nowhere."""
    return m.create_filesystem("proc", (), m.ATTR_NOSUID | m.ATTR_NODEV | m.ATTR_NOEXEC)
