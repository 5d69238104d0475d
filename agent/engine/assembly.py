"""From what a container asks for, and what was made for it, to its OCI bundle: pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.engine.model import ContainerConfig
from agent.engine.process import ResolvedProcess
from agent.errors import Unsupported
from agent.oci.mount import Mount
from agent.runtime.bundle import BundleSpec, ProcessSpec
from agent.runtime.cgroups import CgroupLimits
from agent.runtime.defaults import NETWORK_SYSCTLS
from agent.runtime.users import Identity
from agent.values import frozen

INIT_PROGRAM = Path("/usr/bin/tini-static")
INIT_TARGET = "/dev/init"


@frozen
class Surroundings:
    """What was made or looked up for one container. ``mounts`` are its files of ours and its volumes."""

    identity: Identity
    netns: Path
    capabilities: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    seccomp: Mapping[str, Any] | None = None


def compute_limits(config: ContainerConfig) -> CgroupLimits:
    """The limits of its cgroups."""
    resources = config.resources
    return CgroupLimits(resources.cpus, resources.memory, resources.pids, resources.memory_reservation)


def compute_init_mounts(config: ContainerConfig, program: Path = INIT_PROGRAM) -> tuple[Mount, ...]:
    """The small init of ``init: true``, shown where no image has a file. Raises Unsupported when the host has none."""
    if not config.process.init:
        return ()
    if not program.exists():
        raise Unsupported(
            f"init: true needs {program} on the host", reason="InitMissing", hint="apt-get install tini, or drop init:"
        )
    return (Mount("bind", str(program), INIT_TARGET, ("bind", "rprivate", "ro")),)


def compute_bundle(config: ContainerConfig, process: ResolvedProcess, around: Surroundings) -> BundleSpec:
    """The bundle of a container."""
    security = config.security
    return BundleSpec(
        process=ProcessSpec(
            args=(INIT_TARGET, "--", *process.args) if config.process.init else process.args,
            env={"HOME": around.identity.home, **process.env},
            cwd=process.cwd,
            identity=around.identity,
            capabilities=around.capabilities,
            no_new_privileges=security.no_new_privileges,
            rlimits=config.resources.ulimits,
            terminal=config.process.terminal,
        ),
        hostname=config.hostname or config.name,
        mounts=around.mounts,
        read_only=security.read_only,
        shm_size=config.resources.shm_size,
        sysctls={**NETWORK_SYSCTLS, **security.sysctls},
        netns=around.netns,
        limits=compute_limits(config),
        seccomp=around.seccomp,
    )
