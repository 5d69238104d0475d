"""What every container gets unless it asks for something else: Docker's defaults, as data."""

from __future__ import annotations

from collections.abc import Collection

from agent.errors import Stalled
from agent.kernel.capabilities import NUMBERS
from agent.oci.mount import Mount

# https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# An unprivileged process may serve port 80 and send a ping: both reach only the container's own network namespace.
NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
_QUIET = ("nosuid", "noexec", "nodev")


def compute_mounts(shm_size: int) -> tuple[Mount, ...]:
    """The file systems of the kernel that a container sees. ``shm_size`` in bytes."""
    return (
        Mount("proc", "proc", "/proc", _QUIET),
        Mount("tmpfs", "tmpfs", "/dev", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount(
            "devpts", "devpts", "/dev/pts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
        ),
        Mount("sysfs", "sysfs", "/sys", (*_QUIET, "ro")),
        Mount("cgroup", "cgroup", "/sys/fs/cgroup", (*_QUIET, "ro")),
        Mount("mqueue", "mqueue", "/dev/mqueue", _QUIET),
        Mount("tmpfs", "shm", "/dev/shm", (*_QUIET, "mode=1777", f"size={shm_size}")),
    )


def compute_capabilities(add: Collection[str], drop: Collection[str]) -> tuple[str, ...]:
    """The capabilities of a container, in the kernel's order: as Docker does, ``ALL`` in ``add`` stands for every
    one, ``ALL`` in ``drop`` for none but those added by name. Raises Stalled for a name that is no capability."""
    unknown = sorted({*add, *drop} - NUMBERS.keys() - {"ALL"})
    if unknown:
        raise Stalled(
            f"no such capability: {', '.join(unknown)}", reason="InvalidCapability", hint="capabilities(7) lists them"
        )
    if "ALL" in add:
        wanted = set(NUMBERS) - set(drop)
    elif "ALL" in drop:
        wanted = {*add}
    else:
        wanted = (set(DEFAULT_CAPABILITIES) | set(add)) - (set(drop) - set(add))
    return tuple(name for name in NUMBERS if name in wanted)
