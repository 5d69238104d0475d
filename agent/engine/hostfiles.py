"""The files that Holdfast writes for each container and binds over the image's own: hosts, hostname, resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from agent.network.resolvconf import ResolvConf, parse_resolv_conf, render_resolv_conf
from agent.oci.mount import Mount
from agent.store.atomic import write_fresh

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
_LIMIT = 64 << 10
_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def render_hosts(addresses: Sequence[str], names: Sequence[str]) -> str:
    """/etc/hosts: the loopback names, and the container's own for its addresses."""
    own = " ".join(dict.fromkeys(names))
    return _LOCAL + "".join(f"{address}\t{own}\n" for address in addresses)


def read_host_resolv_conf(path: Path = HOST_RESOLV_CONF) -> ResolvConf:
    """What the host's resolv.conf says; nothing when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _parse(os.read(descriptor, _LIMIT))
        finally:
            os.close(descriptor)
    except OSError:
        return ResolvConf()


@lru_cache(maxsize=4)
def _parse(data: bytes) -> ResolvConf:
    return parse_resolv_conf(data.decode(errors="replace"))


def write_host_files(directory: Path, hostname: str, hosts: str, dns: str, *, read_only: bool) -> tuple[Mount, ...]:
    """Write the three files into ``directory``; the mounts that show them. Without ``dns`` no server is named."""
    resolv = render_resolv_conf(dns, read_host_resolv_conf()) if dns else ""
    contents = {"hosts": hosts, "hostname": f"{hostname}\n", "resolv.conf": resolv}
    options = ("rbind", "rprivate", *(("ro",) if read_only else ()))
    for name, text in contents.items():
        write_fresh(directory / name, text.encode(), 0o644)
    return tuple(Mount("bind", str(directory / name), f"/etc/{name}", options) for name in contents)
