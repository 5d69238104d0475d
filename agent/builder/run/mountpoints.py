"""The places in a step's root where something is mounted, made in a layer of their own below the step's.

The keeper makes a missing mount point in the container's upper layer. In a build that would end in the image, and
removing it afterwards by its name is what attack rows 54 and 55 are about; so they are there already, further down.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from agent.builder.run.network import StepNetwork
from agent.builder.workspace import StepDirectory
from agent.errors import Refused
from agent.network.resolvconf import ResolvConf, parse_resolv_conf, render_resolv_conf
from agent.runtime.keeper.paths import ensure_directory, ensure_file
from agent.runtime.users import Identity, read_identity

DIRECTORIES = ("/proc", "/sys", "/dev")
FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
_HOST_RESOLV_CONF = Path("/etc/resolv.conf")
_MAX_RESOLV_CONF = 64 << 10


def prepare_root(
    directory: StepDirectory, user: str, further: Sequence[tuple[str, bool]] = ()
) -> tuple[Path, Identity]:
    """The layer that holds what the image lacks of them, found by the keeper's own walk; and who ``user`` is in it.

    ``further`` are paths, each with whether it is a directory. Those below /dev are made there, which is empty when a
    step begins. Raises Refused.
    """
    layer = directory.make("points")
    places = [*((path, True) for path in DIRECTORIES), *((path, False) for path in FILES), *further]
    with directory.mounted(layer) as root:
        identity = read_identity(root, user)
        try:
            for path, is_directory in places:
                if not path.startswith("/dev/"):
                    _ensure(root, path, is_directory)
        except OSError as error:
            raise Refused(
                f"the image has something unfit where {path} must be mounted: {error.strerror}", reason="UnfitImage"
            ) from None
    return layer, identity


def _ensure(root: int, path: str, is_directory: bool) -> None:
    fd = ensure_directory(root, path) if is_directory else ensure_file(root, path)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode) != is_directory:
            kind = errno.ENOTDIR if is_directory else errno.EISDIR
            raise OSError(kind, os.strerror(kind), path)
    finally:
        os.close(fd)


def render_files(hostname: str, network: StepNetwork, extra: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """What a step sees in each of FILES; ``extra`` are further names, each with its address."""
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if network.address:
        hosts += f"{network.address}\t{hostname}\n"
    hosts += "".join(f"{address}\t{name}\n" for name, address in extra)
    return {"/etc/hosts": hosts, "/etc/hostname": f"{hostname}\n", "/etc/resolv.conf": _render_resolver(network)}


def _render_resolver(network: StepNetwork) -> str:
    host = _read_host()
    if network.dns:
        return render_resolv_conf(network.dns, host)
    if not network.shared:
        return ""
    return "".join(f"nameserver {server}\n" for server in host.servers) + "".join(
        f"{key} {' '.join(words)}\n" for key, words in (("search", host.search), ("options", host.options)) if words
    )


def _read_host() -> ResolvConf:
    try:
        with _HOST_RESOLV_CONF.open("rb") as file:
            return parse_resolv_conf(file.read(_MAX_RESOLV_CONF).decode("utf-8", "replace"))
    except OSError:
        return ResolvConf()
