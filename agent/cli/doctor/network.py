"""Questions about the network: nftables with NAT, links, forwarding."""

from __future__ import annotations

import ctypes
from pathlib import Path

from agent.cli.doctor.attempt import attempt
from agent.cli.doctor.finding import Check, Host, Outcome, fail, ok, warn
from agent.kernel import namespaces

_BALANCER = """
table ip holdfast_doctor {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
  }
  chain postrouting { type nat hook postrouting priority srcnat; masquerade; }
}
"""


def check_nftables(_host: Host) -> Outcome:
    """Can libnftables be loaded, and does the kernel take a balancer with NAT? Tried in a namespace of its own."""
    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return fail("libnftables is not installed", "apt-get install libnftables1")
    complaint = attempt(_load_balancer)
    if complaint:
        advice = "modprobe nf_tables nft_chain_nat nft_numgen nft_masq; the kernel needs CONFIG_NF_TABLES and NFT_NAT"
        return fail(f"the kernel refuses a balancer: {complaint}", advice)
    return ok("NAT, numgen, masquerade")


def _load_balancer() -> None:
    namespaces.unshare(namespaces.CLONE_NEWNET)
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    library.nft_ctx_buffer_error(context)
    if library.nft_run_cmd_from_buffer(context, _BALANCER.encode()):
        text = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace").strip()
        raise OSError(0, text.splitlines()[0] if text else "unknown error")


def check_forwarding(_host: Host) -> Outcome:
    """May packets pass from containers to the world?"""
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1":
        return ok("net.ipv4.ip_forward is 1")
    return warn(
        "net.ipv4.ip_forward is 0: containers reach nothing outside unless the agent may switch it on",
        "sysctl -w net.ipv4.ip_forward=1, and write it to /etc/sysctl.d/",
    )


def check_links(_host: Host) -> Outcome:
    """Are bridges and veth pairs there, built in or as modules?"""
    missing = [name for name in ("bridge", "veth") if not _has_module(name)]
    if missing:
        return warn(f"no sign of {' and '.join(missing)}", f"modprobe {' '.join(missing)}")
    return ok("bridge, veth")


def _has_module(name: str) -> bool:
    release = Path("/proc/sys/kernel/osrelease").read_text().strip()
    modules = Path("/lib/modules") / release
    lists = [modules / "modules.builtin", modules / "modules.dep"]
    if Path("/sys/module", name).exists():
        return True
    if not any(path.exists() for path in lists):
        return True  # a kernel without modules: what it has shows when it is used
    return any(f"/{name}.ko" in path.read_text() for path in lists if path.exists())


CHECKS = (
    Check("nftables", check_nftables, needs_root=True),
    Check("links", check_links),
    Check("forwarding", check_forwarding),
)
