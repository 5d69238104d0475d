"""Questions about the kernel: version, system calls, namespaces, overlayfs, privileges."""

from __future__ import annotations

import os
import platform
import re
import signal
import tempfile
from functools import partial
from pathlib import Path

from agent.cli.doctor.attempt import attempt
from agent.cli.doctor.finding import Check, Host, Outcome, fail, ok, warn
from agent.image.erofs.layermounts import LayerMounts
from agent.kernel import mounts, namespaces
from agent.kernel.capabilities import NUMBERS, parse_capabilities
from agent.kernel.openat import RESOLVE_IN_ROOT, openat2

OLDEST = (5, 14)
EXIT_INFO = (6, 15)
_NEEDED = (
    *("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_MKNOD"),
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"),
    *("CAP_SETFCAP", "CAP_KILL"),
)
_NAMESPACES = {
    "mnt": namespaces.CLONE_NEWNS,
    "pid": namespaces.CLONE_NEWPID,
    "net": namespaces.CLONE_NEWNET,
    "ipc": namespaces.CLONE_NEWIPC,
    "uts": namespaces.CLONE_NEWUTS,
    "cgroup": namespaces.CLONE_NEWCGROUP,
}


def parse_version(release: str) -> tuple[int, int]:
    """Major and minor of a kernel release such as ``6.1.0-13-amd64``; (0, 0) when it is none."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def judge_version(release: str) -> Outcome:
    """What a kernel release means for Holdfast."""
    version = parse_version(release)
    if version < OLDEST:
        return fail(f"Linux {release} is too old", f"upgrade to {OLDEST[0]}.{OLDEST[1]} or newer (Debian 12 has 6.1)")
    if version < EXIT_INFO:
        return ok(f"Linux {release}; exit codes of containers adopted after a keeper crash stay unknown before 6.15")
    return ok(f"Linux {release}")


def check_version(_host: Host) -> Outcome:
    """Is the kernel new enough?"""
    if platform.system() != "Linux":
        return fail(f"this is {platform.system()}", "run Holdfast on Linux")
    return judge_version(platform.release())


def check_privileges(_host: Host) -> Outcome:
    """Root with the capabilities that containers need?"""
    if os.geteuid() != 0:
        return fail("not root", "run the agent as root (and this command, to look at everything)")
    held = read_effective()
    missing = [name for name in _NEEDED if not held & parse_capabilities([name])]
    if missing:
        return fail(f"root without {', '.join(missing)}", "give them back (CapabilityBoundingSet=, --cap-add)")
    if not held & (1 << NUMBERS["CAP_SYS_RESOURCE"]):
        return warn(
            "root without CAP_SYS_RESOURCE: ulimits cannot be raised above the agent's own",
            "give it back, or set ulimits no higher than this process's",
        )
    return ok("root with every capability needed")


def read_effective() -> int:
    """The effective capabilities of this process as a bit mask."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def check_namespaces(_host: Host) -> Outcome:
    """Can a process get new namespaces of all six kinds?"""
    broken = {name: attempt(partial(namespaces.unshare, flag)) for name, flag in _NAMESPACES.items()}
    reasons = [f"{name}: {reason}" for name, reason in broken.items() if reason]
    if reasons:
        return fail(
            f"cannot make namespaces ({'; '.join(reasons)})", "use a kernel with CONFIG_NAMESPACES, not a sandbox"
        )
    return ok(", ".join(_NAMESPACES))


def check_overlay(host: Host) -> Outcome:
    """Can an overlay be mounted on the file system of the data root?"""
    place = nearest_directory(host.data_root)
    with tempfile.TemporaryDirectory(prefix=".holdfast-doctor-", dir=place) as base:
        complaint = attempt(partial(_mount_overlay, Path(base)))
    if complaint:
        return fail(
            f"cannot mount an overlay in {place}: {complaint}",
            "modprobe overlay; or put --data-root on ext4, xfs or btrfs (not on an overlay, not on NFS)",
        )
    return ok(f"works in {place}")


def _mount_overlay(base: Path) -> None:
    names = ("lower", "upper", "work", "merged")
    for name in names:
        (base / name).mkdir()
    (base / "lower/file").write_text("x")
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    mounts.mount("overlay", str(base / "merged"), "overlay", 0, options)
    (base / "merged/file").unlink()
    mounts.unmount(str(base / "merged"), mounts.MNT_DETACH)


def check_layer_images(host: Host) -> Outcome:
    """Can a large layer be kept as one image, which takes less time to make and to remove than its files do?"""
    place = nearest_directory(host.data_root)
    with tempfile.TemporaryDirectory(prefix=".holdfast-doctor-", dir=place) as base:
        complaint = attempt(partial(_use_layer_image, Path(base)))
    if complaint:
        return ok(f"not here ({complaint}): large layers are unpacked to files")
    return ok("large layers are kept as EROFS images")


def _use_layer_image(base: Path) -> None:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    if not LayerMounts(base).supported:
        raise OSError(0, "that takes Linux 6.12 with EROFS from files, and a data root that is no overlay")


def nearest_directory(path: Path) -> Path:
    """``path`` itself or the nearest parent that exists already."""
    while not path.is_dir():
        path = path.parent
    return path


def check_pidfd(_host: Host) -> Outcome:
    """Can processes be watched and signalled without a race?"""
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)
    return ok("pidfd_open, pidfd_send_signal")


def check_openat2(_host: Host) -> Outcome:
    """Can paths inside a container be opened without leaving it?"""
    root = os.open("/proc", os.O_PATH)
    try:
        os.close(openat2(root, "/../../version", os.O_RDONLY, RESOLVE_IN_ROOT))
    finally:
        os.close(root)
    return ok("RESOLVE_IN_ROOT")


def check_mount_attributes(_host: Host) -> Outcome:
    """Can mounts be cloned and sealed (open_tree, mount_setattr)?"""
    complaint = attempt(_seal_a_mount)
    if complaint:
        return fail(f"mount_setattr: {complaint}", "use Linux 5.14 or newer, outside of a sandbox")
    return ok("open_tree, mount_setattr")


def _seal_a_mount() -> None:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    descriptor = mounts.clone_mount("/usr", directory=mounts.AT_FDCWD)
    mounts.set_attributes(descriptor, mounts.ATTR_RDONLY)


CHECKS = (
    Check("kernel", check_version),
    Check("privileges", check_privileges),
    Check("namespaces", check_namespaces, needs_root=True),
    Check("overlayfs", check_overlay, needs_root=True),
    Check("layer images", check_layer_images, needs_root=True),
    Check("pidfd", check_pidfd),
    Check("openat2", check_openat2),
    Check("mounts", check_mount_attributes, needs_root=True),
)
