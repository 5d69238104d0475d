"""The places in a step's root where something is mounted, made in a layer of their own below the step's.

The keeper makes a missing mount point in the container's upper layer. In a build that would end in the image, and
removing it afterwards by its name is what attack rows 54 and 55 are about; so they are there already, further down.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.builder.workspace import StepDirectory
from agent.errors import Refused
from agent.network.model import Sandbox
from agent.network.resolvconf import ResolvConf, parse_resolv_conf, render_resolv_conf
from agent.runtime.keeper.paths import ensure_directory, ensure_file

DIRECTORIES = ("/proc", "/sys", "/dev")
FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_HOST_RESOLV_CONF = Path("/etc/resolv.conf")
_MAX_RESOLV_CONF = 64 << 10


def make_mount_points(directory: StepDirectory) -> Path:
    """The layer that holds what the image lacks of them, found by the keeper's own walk. Raises Refused."""
    layer = directory.make("points")
    try:
        with directory.mounted(layer) as root:
            for path in DIRECTORIES:
                os.close(ensure_directory(root, path))
            for path in FILES:
                os.close(ensure_file(root, path))
    except OSError as error:
        raise Refused(
            f"the image has something unfit where {path} must be mounted: {error.strerror}", reason="UnfitImage"
        ) from None
    return layer


def render_files(hostname: str, sandbox: Sandbox) -> dict[str, str]:
    """What a step sees in each of FILES."""
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if sandbox.address:
        hosts += f"{sandbox.address}\t{hostname}\n"
    return {
        "/etc/hosts": hosts,
        "/etc/hostname": f"{hostname}\n",
        "/etc/resolv.conf": render_resolv_conf(sandbox.dns, _read_host()),
    }


def _read_host() -> ResolvConf:
    try:
        with _HOST_RESOLV_CONF.open("rb") as file:
            return parse_resolv_conf(file.read(_MAX_RESOLV_CONF).decode("utf-8", "replace"))
    except OSError:
        return ResolvConf()
