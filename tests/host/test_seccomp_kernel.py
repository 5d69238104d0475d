"""Filters on the real kernel: a small process loads one and tries system calls."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from keeperlab import CAPS, build_config

from agent.kernel.capabilities import NUMBERS
from agent.runtime.seccomp import SeccompStore, render_profile

pytestmark = pytest.mark.host
DOCKER_CAPS = CAPS.split()
TRY = """
import ctypes, json, mmap, os, struct, sys
sys.path.insert(0, sys.argv[1])
from agent.kernel.process import load_filter, set_no_new_privileges
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
page = libc.mmap(None, 4096, 7, 0x62, -1, 0)
code = bytes.fromhex("5389f889f389d1cd805bc3")  # push rbx; mov eax,edi; mov ebx,esi; mov ecx,edx; int 80h; pop rbx; ret
ctypes.memmove(page, code, len(code))
int80 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(page)

def socketcall(family):
    ctypes.memmove(page + 256, struct.pack("=3I", family, 2, 0), 12)
    return int80(102, 1, page + 256)

def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    return -ctypes.get_errno() if result < 0 else result

if sys.argv[2] != "none":
    set_no_new_privileges()
    load_filter(open(sys.argv[2], "rb").read())
results = {}
for name, kind, *arguments in json.loads(sys.argv[3]):
    pid = os.fork()
    if not pid:
        reply = {"64": call, "32": int80, "socketcall": socketcall}[kind](*arguments)
        os.write(1, (json.dumps([name, reply]) + "\\n").encode())
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        print(json.dumps([name, f"killed {status}"]), flush=True)
"""
NEWUSER = 0x10000000
BAD = -1
CALLS: dict[str, tuple[Any, ...]] = {
    "keyctl": ("64", 250, 0, BAD, 0),
    "add_key": ("64", 248, 0, 0, 0, 0, BAD),
    "unshare": ("64", 272, NEWUSER),
    "setns": ("64", 308, BAD, 0),
    "clone": ("64", 56, NEWUSER | 17, 0, 0, 0, 0),
    "clone3": ("64", 435, 0, 0),
    "mount": ("64", 165, 0, 0, 0, 0, 0),
    "umount2": ("64", 166, 0, 0),
    "bpf": ("64", 321, BAD, 0, 0),
    "perf_event_open": ("64", 298, 0, 0, 0, 0, 0),
    "open_by_handle_at": ("64", 304, BAD, 0, 0),
    "kexec_load": ("64", 246, 0, BAD, 0, 0),
    "init_module": ("64", 175, 0, 0, 0),
    "userfaultfd": ("64", 323, BAD),
    "io_uring_setup": ("64", 425, 0, 0),
    "af_alg": ("64", 41, 38, 5, 0),
    "af_vsock": ("64", 41, 40, 1, 0),
    "af_inet": ("64", 41, 2, 1, 0),
    "af_unix": ("64", 41, 1, 1, 0),
    "af_netlink": ("64", 41, 16, 3, 0),
    "personality": ("64", 135, 0xFFFFFFFF),
    "personality_bad": ("64", 135, 0x0040000),
    "getpid": ("64", 39),
    "newer": ("64", 1000, 0, 0, 0),
    "below_last": ("64", 443, 0, 0, 0, 0),
    "getpid_32": ("32", 20, 0, 0),
    "keyctl_32": ("32", 288, 0, 0),
    "mount_32": ("32", 21, 0, 0),
    "newer_32": ("32", 1000, 0, 0),
    "socketcall_inet": ("socketcall", 2),
    "af_alg_32": ("32", 359, 38, 5),
    "af_unix_32": ("32", 359, 1, 1),
}


def run_calls(program: Path | None) -> dict[str, Any]:
    calls = json.dumps([[name, *call] for name, call in CALLS.items()])
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", TRY, root, str(program or "none"), calls]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = dict(json.loads(line) for line in run.stdout.splitlines())
    assert results.keys() == CALLS.keys()
    return results


@pytest.fixture(scope="module")
def free() -> dict[str, Any]:
    return run_calls(None)


def filtered(tmp_path: Path, capabilities: Collection[str], profile: str = "default") -> dict[str, Any]:
    return run_calls(SeccompStore(tmp_path / "filters").filter(profile, capabilities))


REFUSED = (
    "keyctl add_key unshare setns clone mount umount2 bpf perf_event_open open_by_handle_at kexec_load init_module "
    "userfaultfd io_uring_setup af_alg af_vsock personality_bad below_last keyctl_32 mount_32 af_alg_32"
)


def test_default_profile(tmp_path: Path, free: dict[str, Any]) -> None:
    seen = filtered(tmp_path, DOCKER_CAPS)
    refused = {name: seen[name] for name in REFUSED.split()}
    assert refused == dict.fromkeys(refused, -errno.EPERM)
    assert seen["clone3"] == seen["newer"] == seen["newer_32"] == -errno.ENOSYS
    for name in ("af_inet", "af_unix", "af_netlink", "getpid", "personality", "af_unix_32", "socketcall_inet"):
        assert seen[name] >= 0, name
    assert seen["getpid_32"] > 0
    passing = ("keyctl", "mount", "open_by_handle_at", "bpf", "clone3")
    assert all(free[name] not in (-errno.EPERM, -errno.ENOSYS) or name == "keyctl" for name in passing)


def test_capabilities_open_their_calls(tmp_path: Path, free: dict[str, Any]) -> None:
    seen = filtered(tmp_path, [*DOCKER_CAPS, "CAP_SYS_ADMIN"])
    for name in ("mount", "umount2", "unshare", "setns", "clone", "clone3", "bpf", "perf_event_open"):
        assert seen[name] == free[name] or name in ("clone", "perf_event_open"), name
        assert seen[name] != -errno.EPERM, name
    assert seen["open_by_handle_at"] == seen["keyctl"] == seen["af_alg"] == -errno.EPERM
    seen = filtered(tmp_path, ["CAP_DAC_READ_SEARCH"])
    assert seen["open_by_handle_at"] == free["open_by_handle_at"]
    assert seen["mount"] == -errno.EPERM


def test_every_capability_makes_a_filter(tmp_path: Path) -> None:
    store = SeccompStore(tmp_path)
    paths = {store.filter("default", NUMBERS), store.filter("default", ())}
    assert len(paths) == 2
    assert filtered(tmp_path, NUMBERS)["keyctl"] == -errno.EPERM


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 99}, -99),
        ({"action": "SCMP_ACT_ERRNO"}, -errno.EPERM),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, "killed 159"),
        ({"action": "SCMP_ACT_TRAP"}, "killed 159"),
    ],
)
def test_own_profile(tmp_path: Path, free: dict[str, Any], action: dict[str, Any], expected: int | str) -> None:
    argument = {"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}
    rules = [{"names": ["keyctl", "mount"], **action}, {"names": ["socket"], **action, "args": [argument]}]
    seen = filtered(tmp_path, (), json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    for name in ("keyctl", "mount", "af_alg"):
        got = seen[name]
        assert (isinstance(got, str) and got.startswith("killed")) if isinstance(expected, str) else got == expected
    for name in ("af_inet", "getpid", "newer", "clone3"):
        assert seen[name] == free[name] or name in ("af_inet", "getpid")
    assert isinstance(seen["getpid_32"], str)  # no 32-bit architecture is named


def test_crun_takes_the_rendered_profile(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    script = "busybox cat /proc/self/status | busybox grep Seccomp; busybox mount -t tmpfs t /tmp; echo mount $?"
    config = build_config("/bin/busybox", "sh", "-c", script)
    capabilities = [*DOCKER_CAPS]
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    config["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    config["linux"]["seccomp"] = render_profile("default", capabilities)
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = ["--root", str(tmp_path / "state"), "--cgroup-manager", "disabled"]
    name = f"seccomp-{os.getpid()}"
    unified = 'mount -t cgroup2 none /sys/fs/cgroup && exec crun "$@"'  # crun refuses this host's hybrid set-up
    command = ["unshare", "-m", "sh", "-c", unified, "crun", *state, "run", "-b", str(tmp_path), name]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Seccomp:\t2" in run.stdout, run.stdout + run.stderr
    assert "mount 1" in run.stdout
    assert run.returncode == 0
