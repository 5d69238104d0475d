"""The container's root: the overlay, the pivot into it, and every mount of config.json made from inside.

Law: after ``pivot`` nothing of the host is reachable but the descriptors taken before (attack rows 3 to 12).
"""

from __future__ import annotations

import os
import stat

from agent.kernel import mounts as m
from agent.runtime.keeper.mountplan import MountPlan
from agent.runtime.keeper.paths import ensure_directory, ensure_file, open_inside, refuse_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.keeper.hierarchies import Hierarchy
    from agent.runtime.keeper.order import Board, Order

_MAX_DATA = 4095
_MAX_VALUE = 255


def clone_bind(plan: MountPlan) -> int:
    """A detached copy of a bind's source with its attributes, taken while the host's paths are still there."""
    descriptor = m.clone_mount(plan.source, recursive=plan.recursive)
    together = plan.recursive == plan.propagation_recursive or not plan.recursive
    m.set_attributes(
        descriptor, plan.on, plan.off, propagation=plan.propagation if together else 0, recursive=plan.recursive
    )
    if not together:
        m.set_attributes(descriptor, propagation=plan.propagation)
    return descriptor


def mount_overlay(order: Order, target: str) -> None:
    """Mount the snapshot layers at ``target``; leaves the working directory somewhere on the host.

    Layers are named relative to their common parent: mount(2) takes one page of options. Device nodes of an image
    stay dead (nodev). ``volatile``: a container's layer need not outlive a power cut, and without it the unmount at
    the container's end would wait for a sync of the whole filesystem.
    """
    base, parts = _split_common(order.lower)
    os.chdir(base)
    lower = ":".join(m.escape_option(path, ":,") for path in parts)
    upper, work = (m.escape_option(path, ",") for path in (order.upper, order.work))
    data = f"volatile,lowerdir={lower},upperdir={upper},workdir={work}"
    if len(os.fsencode(data)) > _MAX_DATA:
        raise OSError(7, "too many layers for one mount", order.lower[0])
    m.mount("overlay", target, "overlay", m.MS_NODEV, data)


def create_overlay(board: Board) -> int:
    """The same, detached; the layers have to be in sight. Leaves the working directory somewhere on the host.

    A value of fsconfig(2) may have 255 bytes; from Linux 6.5 on layers can be named one by one. Raises OSError.
    """
    base, (upper, work, *lower) = _split_common([board.upper, board.work, *board.lower])
    os.chdir(base)
    joined = ":".join(m.escape_option(path, ":") for path in lower)
    layers = [("lowerdir", joined)] if len(joined) <= _MAX_VALUE else [("lowerdir+", path) for path in lower]
    writable = (("upperdir", upper), ("workdir", work))
    return m.create_filesystem("overlay", (("volatile", None), *layers, *writable), m.ATTR_NODEV, "overlay")


def _split_common(paths: list[str]) -> tuple[str, list[str]]:
    """The directory where absolute paths part, and what each of them is from there on."""
    length = os.path.commonprefix(paths).rindex("/") + 1  # noqa: RUF071 - cut behind a slash
    return paths[0][:length], [path[length:].lstrip("/") or "." for path in paths]


def forget_mount(work: str) -> None:
    """Let a writable layer in which nothing has been written be mounted again: overlayfs refuses a volatile one."""
    place = f"{work}/work/incompat"
    try:
        os.unlink(f"{place}/volatile/dirty")
        os.rmdir(f"{place}/volatile")
        os.rmdir(place)
    except FileNotFoundError:
        return


def pivot(target: str) -> int:
    """Make ``target`` the root, let go of the host's mounts, and return a descriptor of the new root."""
    os.chdir(target)
    m.pivot_root(".", ".")
    m.unmount(".", m.MNT_DETACH)
    os.chdir("/")
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def attach_bind(root: int, plan: MountPlan, source: int) -> None:
    """Attach a bind made by ``clone_bind``; its target is made where it is missing."""
    directory = stat.S_ISDIR(os.stat(source).st_mode)
    target = ensure_directory(root, plan.destination) if directory else ensure_file(root, plan.destination)
    _attach(plan, source, target)


def mount_filesystem(root: int, plan: MountPlan) -> int:
    """Mount a new instance of proc, sysfs, tmpfs, devpts or mqueue; returns a descriptor of its root.

    Device nodes work on a devpts and where "dev" is asked for, nowhere else.
    """
    alive = plan.kind == "devpts" or plan.off & m.ATTR_NODEV
    attributes = plan.on | (0 if alive else m.ATTR_NODEV)
    source = m.create_filesystem(plan.kind, plan.data, attributes, None if plan.kind == "sysfs" else plan.source)
    place(root, plan, source)
    return source


def place(root: int, plan: MountPlan, source: int) -> None:
    """Attach a filesystem where its plan says; one that is attached elsewhere moves, with all that is mounted in it."""
    if plan.kind not in ("proc", "sysfs"):
        _attach(plan, source, ensure_directory(root, plan.destination))
        return
    try:
        target = open_inside(root, plan.destination, os.O_DIRECTORY, links=False)
    except FileNotFoundError:
        os.close(ensure_directory(root, plan.destination))
        target = open_inside(root, plan.destination, os.O_DIRECTORY, links=False)
    _attach(plan, source, target)


def _attach(plan: MountPlan, source: int, target: int) -> None:
    if not plan.destination.startswith("/proc/"):
        refuse_proc(target, plan.destination)
    m.attach_mount(source, target)
    os.close(target)


def mount_cgroups(root: int, plan: MountPlan, hierarchies: list[Hierarchy], *, private: bool) -> int:
    """Show the container its own cgroups: cgroup2 itself, or one directory per joined hierarchy. Returns a descriptor.

    Without a cgroup namespace (``private`` off) they are read-only whatever was asked (attack row 15).
    """
    attributes = plan.on | (0 if private else m.ATTR_RDONLY)
    if len(hierarchies) == 1 and hierarchies[0].version == 2:
        only = m.create_filesystem("cgroup2", (), attributes)
        _attach(plan, only, ensure_directory(root, plan.destination))
        return only
    quiet = m.ATTR_NOSUID | m.ATTR_NODEV | m.ATTR_NOEXEC
    top = m.create_filesystem("tmpfs", (("mode", "755"), ("size", "64k")), quiet)
    _attach(plan, top, ensure_directory(root, plan.destination))
    for hierarchy in hierarchies:
        os.mkdir(hierarchy.name, 0o755, dir_fd=top)
        fstype = "cgroup2" if hierarchy.version == 2 else "cgroup"
        target = os.open(hierarchy.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        source = m.create_filesystem(fstype, hierarchy.options, attributes)
        m.attach_mount(source, target)
        os.close(source)
        os.close(target)
        for alias in hierarchy.name.split(",") if "," in hierarchy.name else ():
            os.symlink(hierarchy.name, alias, dir_fd=top)
    m.set_attributes(top, m.ATTR_RDONLY)
    return top
