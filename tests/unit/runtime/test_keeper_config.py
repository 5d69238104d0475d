from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.kernel import mounts as m
from agent.kernel import namespaces as ns
from agent.runtime.keeper.config import check_sysctls, compute_sysctl_path, parse_config, read_config
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.hierarchies import find_hierarchy, parse_hierarchies
from agent.runtime.keeper.mountplan import normalise, parse_mount
from agent.runtime.keeper.order import Order, check_id
from agent.runtime.protocol import CgroupPlan, CreateRequest, LogSpec, OverlaySpec, decode_event, encode_create


def config(**fields: Any) -> dict[str, Any]:
    return {
        "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        **fields,
    }


def test_minimal_config() -> None:
    plan = parse_config(config())
    assert plan.namespaces == ns.CLONE_NEWNS | ns.CLONE_NEWPID
    assert (plan.process.args, plan.process.uid, plan.process.bounding, plan.process.umask) == (["true"], 0, 0, 0o022)
    assert plan.readonly is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hooks": {"prestart": [{"path": "/x"}]}}, "Unsupported"),
        ({"linux": {"namespaces": [{"type": "pid"}]}}, "InvalidBundle"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}, "Unsupported"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "time"}]}}, "Unsupported"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "pid", "path": "/proc/1/ns/pid"}]}}, "Unsupported"),
        ({"linux": {"namespaces": [{"type": "mount"}], "mountLabel": "x"}}, "Unsupported"),
        ({"process": {"args": [], "cwd": "/"}}, "InvalidBundle"),
        ({"process": {"args": ["x"], "cwd": "relative"}}, "InvalidBundle"),
        ({"process": {"args": ["x"], "cwd": "/", "apparmorProfile": "p"}}, "Unsupported"),
        ({"hostname": "x"}, "InvalidBundle"),
    ],
)
def test_refused_configs(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_config(config(**change))
    assert caught.value.reason == reason


@pytest.mark.parametrize("uid", [-1, 1 << 31, 1 << 32, 10**20, "0", "root", None, True, 1.0])
def test_ids_never_fall_back_to_root(uid: object) -> None:
    with pytest.raises(Failure, match="not a user or group id"):
        parse_config(config(process={"args": ["x"], "cwd": "/", "user": {"uid": uid, "gid": 0}}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        '{"process": null}',
        '{"process": {"args": "sh", "cwd": "/"}}',
        '{"process": {"args": [1]}}',
        '{"process": {"args": ["x"], "cwd": "/", "env": ["a\\u0000b"]}}',
        '{"mounts": 7, "process": {}}',
        "[" * 100_000,
        '{"process": {"args": ["x"], "cwd": "/", "capabilities": {"bounding": ["CAP_NONE"]}}}',
    ],
)
def test_malformed_files_are_typed_errors(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Failure) as caught:
        read_config(str(tmp_path))
    assert caught.value.reason == "InvalidBundle"


def test_a_config_that_is_no_file_does_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(Failure):
        read_config(str(tmp_path))


def test_bind_options() -> None:
    plan = parse_mount(
        {"destination": "/a/./b/", "source": "/s", "options": ["rbind", "ro", "nosuid", "rslave", "noatime"]}
    )
    assert (plan.kind, plan.destination, plan.recursive) == ("bind", "/a/b", True)
    assert plan.on == m.ATTR_RDONLY | m.ATTR_NOSUID | m.ATTR_NODEV | m.ATTR_NOATIME
    assert plan.off == m.ATTR_ATIME
    assert (plan.propagation, plan.propagation_recursive) == (m.MS_SLAVE, True)


def test_bind_of_a_device_is_asked_for_by_name() -> None:
    plan = parse_mount({"destination": "/d", "source": "/dev/x", "options": ["bind", "dev"]})
    assert not plan.on & m.ATTR_NODEV


def test_filesystem_options() -> None:
    plan = parse_mount(
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["noexec", "size=64k", "mode=1777", "exec"]}
    )
    assert plan.on == 0
    assert plan.data == [("size", "64k"), ("mode", "1777")]


@pytest.mark.parametrize(
    "entry",
    [
        {"destination": "relative", "type": "tmpfs"},
        {"destination": "/a/../b", "type": "tmpfs"},
        {"destination": "/", "type": "tmpfs"},
        {"destination": "/proc", "type": "tmpfs"},
        {"destination": "/proc/self", "type": "bind", "source": "/x"},
        {"destination": "//proc//sys/", "type": "bind", "source": "/x"},
        {"destination": "/x", "type": "nfs"},
        {"destination": "/x", "type": "bind", "source": "relative"},
        {"destination": "/x", "type": "bind", "source": "/x", "options": ["size=1"]},
        {"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]},
    ],
)
def test_refused_mounts(entry: dict[str, Any]) -> None:
    with pytest.raises(Failure):
        parse_mount(entry)


def test_normalise() -> None:
    assert normalise("//a///b/./c/") == "/a/b/c"
    assert normalise("/") == "/"


def test_sysctl_paths() -> None:
    assert compute_sysctl_path("net.ipv4.ip_forward") == "net/ipv4/ip_forward"
    assert compute_sysctl_path("net/ipv4/conf/eth0.5/rp_filter") == "net/ipv4/conf/eth0.5/rp_filter"
    assert compute_sysctl_path("net.ipv4.conf.eth0/5.rp_filter") == "net/ipv4/conf/eth0.5/rp_filter"


def test_sysctls_need_their_namespace() -> None:
    check_sysctls({"net.core.somaxconn": "1"}, ns.CLONE_NEWNET)
    check_sysctls({"kernel.shmmax": "1", "kernel.msgmax": "1", "fs.mqueue.queues_max": "1"}, ns.CLONE_NEWIPC)
    for key, flags in (
        ("net.core.somaxconn", ns.CLONE_NEWIPC),
        ("kernel.shmmax", ns.CLONE_NEWNET),
        ("kernel.core_pattern", ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS),
        ("net/../kernel/core_pattern", ns.CLONE_NEWNET),
    ):
        with pytest.raises(Failure):
            check_sysctls({key: "1"}, flags)


def test_hierarchies_of_a_hybrid_host() -> None:
    text = (
        "33 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "34 32 0:31 / /sys/fs/cgroup/systemd rw shared:1 - cgroup cgroup rw,xattr,name=systemd\n"
        "35 32 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "36 32 0:33 / / rw - ext4 /dev/vda rw\n"
    )
    found = parse_hierarchies(text)
    assert [(one.name, one.version, one.options) for one in found] == [
        ("cpu,cpuacct", 1, [("cpu", None), ("cpuacct", None)]),
        ("systemd", 1, [("name", "systemd")]),
        ("unified", 2, []),
    ]
    assert find_hierarchy(found, "/sys/fs/cgroup/unified/holdfast/x") is found[2]
    assert find_hierarchy(found, "/elsewhere") is None


def test_order_is_what_the_client_sends() -> None:
    request = CreateRequest(
        "abc",
        Path("/b"),
        OverlaySpec((Path("/l1"), Path("/l2")), Path("/u"), Path("/w")),
        Path("/netns"),
        CgroupPlan((Path("/c"),), Path("/c"), ("v2", Path("/c/memory.events"))),
        Path("/f.bpf"),
        LogSpec(Path("/logs")),
    )
    order = Order(json.loads(json.dumps(encode_create(request))))
    assert (order.id, order.bundle, order.lower, order.upper, order.work) == ("abc", "/b", ["/l1", "/l2"], "/u", "/w")
    assert (order.netns, order.join, order.kill, order.oom) == ("/netns", ["/c"], "/c", ("v2", "/c/memory.events"))
    assert (order.seccomp, order.log_directory, order.log_size, order.log_files) == ("/f.bpf", "/logs", 10 << 20, 5)
    bare = Order(encode_create(CreateRequest("x", Path("/b"), OverlaySpec((Path("/l"),), Path("/u"), Path("/w")))))
    assert (bare.netns, bare.join, bare.oom, bare.log_directory) == (None, [], None, None)


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "-x", "a b", "ü", "x" * 129, None, 7, "a\0b"])
def test_bad_ids(value: object) -> None:
    with pytest.raises(Failure):
        check_id(value)


def test_event_of_the_wire() -> None:
    event = decode_event({"kind": "exited", "id": "x", "code": 0, "signal": None, "oom": False, "at": 1.5, "pid": 3})
    assert (event.kind, event.code, event.at) == ("exited", 0, 1.5)


def test_explain_names_the_path() -> None:
    assert explain(OSError(2, "No such file or directory", "/x")) == "No such file or directory: /x"
    assert explain(ValueError()) == "ValueError"
