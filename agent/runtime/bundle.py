"""OCI bundles: a directory with config.json and rootfs, as the runtime specification 1.0.2 describes it.

The keeper runs it, and so does any other OCI runtime once the snapshot is mounted on ``rootfs``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from agent.errors import Stalled
from agent.oci.mount import Mount, encode_mount
from agent.runtime.cgroup_limits import compute_quota
from agent.runtime.cgroups import NO_LIMITS, CgroupLimits
from agent.runtime.defaults import MASKED_PATHS, READONLY_PATHS, compute_mounts
from agent.runtime.users import Identity
from agent.store.atomic import write_fresh
from agent.values import frozen

OCI_VERSION = "1.0.2"
CONFIG_NAME, ROOTFS_NAME = "config.json", "rootfs"
DEFAULT_SHM_SIZE = 64 << 20
_MAX_TOLD = 32 << 10
_COVERED = ("maskedPaths", "readonlyPaths")
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")


@frozen
class ProcessSpec:
    """The process to run. ``env`` is complete; ``capabilities`` are those a root process gets, and the most that
    any can; ``rlimits`` are (name without RLIMIT_, soft, hard), -1 for unlimited."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    identity: Identity
    capabilities: tuple[str, ...]
    no_new_privileges: bool = False
    rlimits: tuple[tuple[str, int, int], ...] = ()
    terminal: bool = False


@frozen
class BundleSpec:
    """All of config.json. ``mounts`` come after those every container has; ``seccomp`` is the specification's own
    object; without ``netns`` the network namespace is a new one, with loopback only."""

    process: ProcessSpec
    hostname: str
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    shm_size: int = DEFAULT_SHM_SIZE
    sysctls: Mapping[str, str] = field(default_factory=dict)
    netns: Path | None = None
    limits: CgroupLimits = NO_LIMITS
    seccomp: Mapping[str, Any] | None = None


def write_bundle(directory: Path, spec: BundleSpec) -> dict[str, Any] | None:
    """Write config.json into the directory of a bundle. Raises OSError, Stalled.

    Returns what stands in it, None when that is too long to be told in a request.
    """
    config = render_config(spec)
    text = json.dumps(config, separators=(",", ":"))
    write_fresh(directory / CONFIG_NAME, text.encode())
    return config if len(text) <= _MAX_TOLD else None


def read_process(directory: Path) -> dict[str, Any]:
    """The ``process`` object of a bundle's config.json. Raises OSError."""
    document: dict[str, Any] = json.loads((directory / CONFIG_NAME).read_bytes())
    process: dict[str, Any] = document["process"]
    return process


def render_config(spec: BundleSpec) -> dict[str, Any]:
    """config.json as a mapping. Raises Stalled for what the specification cannot hold."""
    mounts = _order_mounts((*compute_mounts(spec.shm_size), *spec.mounts))
    network = {"type": "network", "path": str(spec.netns)} if spec.netns else {"type": "network"}
    linux: dict[str, Any] = {
        "namespaces": [*({"type": kind} for kind in _NAMESPACES), network],
        "resources": _render_resources(spec.limits),
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    if spec.sysctls:
        linux["sysctl"] = dict(spec.sysctls)
    if spec.seccomp is not None:
        linux["seccomp"] = spec.seccomp
    return {
        "ociVersion": OCI_VERSION,
        "process": _render_process(spec.process),
        "root": {"path": ROOTFS_NAME, "readonly": spec.read_only},
        "hostname": spec.hostname,
        "mounts": [encode_mount(mount) for mount in mounts],
        "linux": linux,
    }


def compute_rest(config: Mapping[str, Any], standard: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a config.json says beside ``standard`` (``render_standard``), for a keeper that has prepared that; None when
    it does not say all of that."""
    linux, common = config["linux"], standard["linux"]
    mounts = list(config["mounts"])
    try:
        for mount in standard["mounts"]:
            mounts.remove(mount)
    except ValueError:
        return None
    if any(linux[name] != common[name] for name in _COVERED):
        return None
    rest = {name: value for name, value in linux.items() if name not in _COVERED}
    return {**config, "standard": True, "mounts": mounts, "linux": rest}


def render_standard() -> dict[str, Any]:
    """The part of config.json that containers have in common which ask for nothing else."""
    return {
        "process": {"args": ["true"], "cwd": "/"},
        "mounts": [encode_mount(mount) for mount in _order_mounts(compute_mounts(DEFAULT_SHM_SIZE))],
        "linux": {
            "namespaces": [{"type": kind} for kind in (*_NAMESPACES, "network")],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def _order_mounts(mounts: tuple[Mount, ...]) -> list[Mount]:
    """The last mount of a destination wins, and what lies deeper is mounted later."""
    chosen = {mount.destination: mount for mount in mounts}
    if chosen["/proc"].type != "proc":
        raise Stalled("nothing may be mounted over /proc", reason="InvalidMount", hint="choose another target")
    return sorted(chosen.values(), key=lambda mount: mount.destination.count("/"))


def _render_process(process: ProcessSpec) -> dict[str, Any]:
    identity = process.identity
    effective = list(process.capabilities) if identity.uid == 0 else []
    return {
        "terminal": process.terminal,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)},
        "args": list(process.args),
        "env": [f"{name}={value}" for name, value in process.env.items()],
        "cwd": process.cwd,
        "capabilities": {
            "bounding": list(process.capabilities),
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [_render_limit(*limit) for limit in process.rlimits],
        "noNewPrivileges": process.no_new_privileges,
    }


def _render_limit(name: str, soft: int, hard: int) -> dict[str, Any]:
    unlimited = (1 << 64) - 1
    values = [unlimited if value < 0 else value for value in (soft, hard)]
    return {"type": f"RLIMIT_{name.upper()}", "soft": values[0], "hard": values[1]}


def _render_resources(limits: CgroupLimits) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if limits.memory is not None:
        resources["memory"] = {"limit": limits.memory, "swap": 2 * limits.memory}
    if limits.memory_reservation is not None:
        resources.setdefault("memory", {})["reservation"] = limits.memory_reservation
    if limits.cpus is not None:
        quota, period = compute_quota(limits.cpus)
        resources["cpu"] = {"quota": quota, "period": period}
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    return resources
