"""Ways out of a container that other runtimes left open; numbers are rows of the attack list."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keeperlab import PATH, Lab, build_config, open_lab

from agent.errors import HoldfastError, Refused
from agent.runtime.protocol import ExecRequest

pytestmark = pytest.mark.host
STARTS = 150


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_lab(tmp_path) as lab:
        yield lab


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """A host directory that no container may reach."""
    path = tmp_path / "decoy"
    path.mkdir()
    (path / "secret").write_text("untouched")
    return path


def replace(path: Path, target: str) -> None:
    """Put a symlink where the image has a directory or file."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def fingerprint() -> str:
    python = Path(sys.executable).resolve()
    return hashlib.sha256(python.read_bytes()).hexdigest() + str(python.stat().st_mtime_ns)


def test_row_1_own_executable_as_entrypoint_and_exec_target(lab: Lab) -> None:
    (lab.image / "bin/evil").write_text("#!/proc/self/exe\n")
    (lab.image / "bin/evil").chmod(0o755)
    before = fingerprint()
    with pytest.raises(HoldfastError, match="Permission denied"):
        lab.run("entry", "/bin/evil")
    lab.run("box", "sleep", "1000")
    with pytest.raises(HoldfastError, match="Permission denied"):
        lab.exec(ExecRequest("box", ("/bin/evil",), (PATH,)))
    with pytest.raises(HoldfastError, match="Permission denied"):
        lab.exec(ExecRequest("box", ("/proc/self/exe", "-c", "print(1)"), (PATH,)))
    assert fingerprint() == before


def test_row_1_loop_that_writes_to_every_executable_it_sees(lab: Lab) -> None:
    script = (
        "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || [ $p = /proc/$$ ] || "
        "{ cat $p/environ $p/maps; ls $p/fd/; echo x >> $p/exe && echo WROTE; } 2>/dev/null | grep -aE 'WROTE|python'; "
        "done; done"
    )
    before = fingerprint()
    lab.shell("hunter", script)
    lab.wait("started", "hunter")
    for _ in range(200):
        assert lab.exec(ExecRequest("hunter", ("true",), (PATH,)))[0].code == 0
    lab.client.kill("hunter", signal.SIGKILL)
    lab.wait("exited", "hunter")
    assert lab.output("hunter") == ""
    assert fingerprint() == before


def test_row_2_descriptors_as_working_directory(lab: Lab) -> None:
    assert lab.output_of("ls /proc/self/fd", "clean").split() == ["0", "1", "2", "3"]
    for number in range(40):
        with pytest.raises(HoldfastError):
            lab.shell(f"cwd{number}", "pwd", cwd=f"/proc/self/fd/{number}")


def test_row_2_descriptors_as_a_way_to_the_program(lab: Lab) -> None:
    for number in range(40):
        with pytest.raises(HoldfastError):
            lab.run(f"program{number}", f"/proc/self/fd/{number}/bin/busybox")
        with pytest.raises(HoldfastError):
            lab.run(f"up{number}", f"/proc/self/fd/{number}/../../../../bin/true")


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_row_3_proc_or_sys_is_a_symlink(lab: Lab, name: str) -> None:
    (lab.image / "tmp/x").mkdir()
    replace(lab.image / name, "/tmp/x")
    with pytest.raises(HoldfastError, match=f"mount /{name}: Too many levels of symbolic links"):
        lab.run("fake", "true")


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/../proc/sys", "/proc/self/attr", "/proc/sys/kernel"])
def test_row_4_nothing_is_mounted_on_proc(lab: Lab, decoy: Path, target: str) -> None:
    config = build_config("true")
    config["mounts"].append({"destination": target, "type": "bind", "source": str(decoy), "options": ["rbind"]})
    with pytest.raises(HoldfastError):
        lab.run("volume", config=config)


def test_row_4_nor_by_way_of_a_link(lab: Lab, decoy: Path) -> None:
    (lab.image / "way").symlink_to("/proc/self")
    config = build_config("true")
    config["mounts"].append({"destination": "/way", "type": "bind", "source": str(decoy), "options": ["rbind"]})
    with pytest.raises(HoldfastError, match="leads into /proc"):
        lab.run("volume", config=config)


def test_row_5_sysctl_is_written_to_the_real_proc(lab: Lab) -> None:
    config = build_config("cat", "/proc/sys/net/ipv4/ip_forward")
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    for number in range(20):
        lab.run(f"s{number}", config=config)
        assert lab.wait("exited", f"s{number}").code == 0
        assert lab.output(f"s{number}") == "1\n"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_row_6_masks_come_from_the_real_null(lab: Lab) -> None:
    (lab.image / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    script = "stat -c %t:%T /proc/timer_list /dev/null; cat /proc/timer_list; echo x > /proc/sys/kernel/core_pattern"
    lab.shell("mask", script + " || echo refused")
    assert lab.wait("exited", "mask").code == 0
    assert lab.output("mask", 1).split() == ["1:3", "1:3", "refused"]


def test_row_6_masks_without_a_dev_of_ours(lab: Lab) -> None:
    (lab.image / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    config = build_config("stat", "-c", "%t:%T", "/proc/timer_list", "/proc/keys")
    config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/dev")]
    lab.run("mask", config=config)
    assert lab.wait("exited", "mask").code == 0
    assert lab.output("mask").split() == ["1:3", "1:3"]


def test_row_7_console_and_pts_of_the_image(lab: Lab, decoy: Path) -> None:
    (lab.image / "dev/console").symlink_to(str(decoy / "secret"))
    (lab.image / "dev/pts").symlink_to(str(decoy))
    text = lab.output_of("stat -c %F /dev/console; readlink /proc/self/fd/0", "console", terminal=True)
    assert text.split("\r\n")[:2] == ["character special file", "/dev/pts/0"]
    assert [entry.name for entry in decoy.iterdir()] == ["secret"]


@pytest.mark.parametrize("shape", ["absolute", "relative"])
def test_row_8_dev_is_a_symlink(lab: Lab, decoy: Path, shape: str) -> None:
    replace(lab.image / "dev", str(decoy) if shape == "absolute" else "../../../.." + str(decoy))
    try:
        lab.run("dev", "true")
    except HoldfastError:
        pass
    assert [entry.name for entry in decoy.iterdir()] == ["secret"]


SHAPES = {
    "absolute": ("link", "{decoy}", "/link/in"),
    "itself": ("link", "{decoy}", "/link"),
    "dots": ("link", "../../../../../../../../{decoy}", "/link/in"),
    "dots-itself": ("link", "../../../../../../../../{decoy}", "/link"),
    "root": ("link", "/", "/link/{decoy}/in"),
    "parent": ("link", "..", "/link/{decoy}/in"),
    "nested": ("tmp/link", "../../..{decoy}", "/tmp/link/a/b"),
    "proc-root": ("link", "/proc/1/root{decoy}", "/link/in"),
    "proc-cwd": ("link", "/proc/self/cwd{decoy}", "/link/in"),
    "proc-fd": ("link", "/proc/self/fd/3", "/link/in"),
    "dangling": ("link", "/nowhere/at/all", "/link/in"),
    "loop": ("link", "/link", "/link/in"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["directory", "file", "tmpfs"])
def test_row_9_mount_targets_below_links(lab: Lab, decoy: Path, shape: str, kind: str) -> None:
    name, target, destination = (text.replace("{decoy}", str(decoy)) for text in SHAPES[shape])
    (lab.image / name).symlink_to(target)
    source = lab.root / "source"
    source.mkdir()
    (source / "file").write_text("x")
    config = build_config("sleep", "1000")
    mount: dict[str, Any] = {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind"]}
    if kind == "file":
        mount["source"] = str(source / "file")
    elif kind == "tmpfs":
        mount = {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}
    config["mounts"].append(mount)
    host = Path("/proc/self/mountinfo").read_text()
    try:
        pid = lab.run("links", config=config)
    except HoldfastError:
        pass
    else:
        roots = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        assert roots.count("/") == 1
    assert Path("/proc/self/mountinfo").read_text().count(str(lab.root)) == host.count(str(lab.root))
    assert [entry.name for entry in decoy.iterdir()] == ["secret"]
    assert (decoy / "secret").read_text() == "untouched"


def test_rows_10_and_11_link_swapped_during_mounts(lab: Lab, decoy: Path) -> None:
    """A neighbour exchanges a directory of the shared volume with a link while containers mount below it."""
    volume, source = lab.root / "volume", lab.root / "source"
    volume.mkdir()
    source.mkdir()
    (volume / "place").mkdir()
    (volume / "swap").symlink_to(f"../../../../..{decoy}")
    swapping = threading.Event()
    thread = threading.Thread(target=swap, args=(volume, swapping))
    thread.start()
    config = build_config("true")
    config["mounts"] += [
        {"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]},
        {"destination": "/v/place", "type": "bind", "source": str(source), "options": ["rbind"]},
        {"destination": "/v/place/new/dir", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
    ]
    started = 0
    try:
        for number in range(STARTS):
            try:
                lab.run(f"race{number}", config=config)
                lab.wait("exited", f"race{number}")
                started += 1
            except HoldfastError:
                continue
    finally:
        swapping.set()
        thread.join()
    assert started
    assert str(source) not in Path("/proc/self/mountinfo").read_text()
    assert [entry.name for entry in decoy.iterdir()] == ["secret"]


def swap(volume: Path, stop: threading.Event) -> None:
    spare = volume / "spare"
    while not stop.is_set():
        try:
            (volume / "place").rename(spare)
            (volume / "swap").rename(volume / "place")
            (volume / "place").rename(volume / "swap")
            spare.rename(volume / "place")
        except OSError:
            continue


@pytest.mark.parametrize("name", ["hosts", "resolv.conf", "hostname"])
def test_row_12_generated_files_over_links(lab: Lab, decoy: Path, name: str) -> None:
    (lab.image / "etc" / name).symlink_to(decoy / "secret")
    generated = lab.root / "generated"
    generated.write_text("from the runtime\n")
    config = build_config("cat", f"/etc/{name}")
    config["mounts"].append(
        {"destination": f"/etc/{name}", "type": "bind", "source": str(generated), "options": ["bind"]}
    )
    lab.run("files", config=config)
    assert lab.wait("exited", "files").code == 0
    assert lab.output("files") == "from the runtime\n"
    assert (decoy / "secret").read_text() == "untouched"


def test_row_13_huge_configuration(lab: Lab) -> None:
    config = build_config("true")
    config["linux"]["uidMappings"] = [{"containerID": i, "hostID": i, "size": 1} for i in range(3000)]
    with pytest.raises(HoldfastError, match="uidMappings"):
        lab.run("mappings", config=config)
    config = build_config("true")
    config["linux"]["namespaces"][1]["path"] = "/x" * 35_000
    with pytest.raises(HoldfastError):
        lab.run("path", config=config)
    (lab.root / "containers/path/config.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(HoldfastError, match="longer than"):
        lab.run("big", config=build_config("true", env=["X=" + "y" * (5 << 20)]))


def test_row_14_inheritable_is_empty(lab: Lab) -> None:
    caps = {"bounding": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}
    assert lab.output_of("grep CapInh /proc/self/status", "inh", capabilities=caps).split()[1] == "0" * 16
    lab.run("box", "sleep", "1000")
    _, text = lab.exec(ExecRequest("box", ("grep", "CapInh", "/proc/self/status"), (PATH,)))
    assert text.split()[1] == "0" * 16


def test_row_15_cgroups_without_a_cgroup_namespace_are_read_only(lab: Lab) -> None:
    config = build_config(
        "sh", "-c", "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x && echo made; done; true"
    )
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"]
    for mount in config["mounts"]:
        if mount["destination"] == "/sys/fs/cgroup":
            mount["options"] = ["nosuid", "noexec", "nodev", "rw"]
    lab.run("cgroups", config=config, cgroup=lab.cgroup("cgroups"))
    assert lab.wait("exited", "cgroups").code == 0
    assert "made" not in lab.output("cgroups")
    assert lab.output("cgroups").count("Read-only file system") == 4


@pytest.mark.parametrize("place", ["/", "/dev", "/dev/shm", "/tmp/mnt", "/data"])
def test_device_nodes_give_nothing(lab: Lab, place: str) -> None:
    """CAP_MKNOD is one of Docker's default capabilities; a node of the host's disk must not open."""
    volume = lab.root / "data"
    volume.mkdir()
    config = build_config("sh", "-c", f"mknod {place}/d b 254 0; cat {place}/d; mknod {place}/m c 1 1; cat {place}/m")
    config["mounts"] += [
        {"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]},
        {"destination": "/tmp/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
    ]
    lab.run("nodes", config=config)
    assert lab.wait("exited", "nodes").code == 1
    assert lab.output("nodes").count("Permission denied") == 2


def test_row_22_working_directory_below_links(lab: Lab, decoy: Path) -> None:
    (lab.image / "a").symlink_to(str(decoy))
    (lab.image / "b").symlink_to("../../../../.." + str(decoy))
    for number, cwd in enumerate(("/a/new", "/b/new", "/a", "/b")):
        try:
            lab.run(f"cwd{number}", config=build_config("pwd", cwd=cwd))
            lab.wait("exited", f"cwd{number}")
        except HoldfastError:
            continue
    assert [entry.name for entry in decoy.iterdir()] == ["secret"]


def test_host_processes_and_files_are_out_of_reach(lab: Lab) -> None:
    script = (
        "ls /proc | grep -c '^[0-9]'; kill -0 2>/dev/null 1; cat /proc/1/root/etc/passwd | wc -l; "
        "echo 1 > /proc/sys/vm/drop_caches || echo ro; echo b > /proc/sysrq-trigger || echo ro; "
        "echo x > /sys/kernel/uevent_helper || echo ro; cat /proc/kcore | wc -c; mount -t tmpfs x /tmp || echo no"
    )
    lab.shell("reach", script)
    assert lab.wait("exited", "reach").code == 0
    assert lab.output("reach", 1).split()[1:] == ["1", "ro", "ro", "ro", "0", "no"]


def test_row_33_no_abstract_socket(lab: Lab) -> None:
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    names = {inode: name for *_, inode, name in lines if not name.isdigit()}
    own = {str(path.readlink()) for path in Path(f"/proc/{lab.keeper_pid}/fd").iterdir()}
    found = {name for inode, name in names.items() if f"socket:[{inode}]" in own}
    assert [name for name in found if name.endswith("/keeper.sock")]
    assert not {name for name in found if name.startswith("@")}
    assert stat.S_IMODE((lab.run_root / "keeper.sock").stat().st_mode) == 0o600


def test_row_35_output_nobody_reads_costs_no_memory(lab: Lab) -> None:
    lab.run("box", "sleep", "1000")
    before = rss(lab.keeper_pid)
    lab.shell("flood", "head -c 400000000 /dev/zero")
    _, master = lab.client.exec(ExecRequest("box", ("cat", "/dev/zero"), (PATH,), terminal=True))
    assert master >= 0
    begin = time.monotonic()
    worst = 0.0
    for _ in range(50):
        then = time.monotonic()
        lab.client.states()
        worst = max(worst, time.monotonic() - then)
    assert lab.wait("exited", "flood").code == 0
    os.close(master)
    lab.wait("exec_exited", "box")
    assert rss(lab.keeper_pid) - before < 8 << 10, f"grew in {time.monotonic() - begin} s, slowest answer {worst} s"
    logs = list((lab.root / "containers/flood/logs").iterdir())
    assert len(logs) == 5
    assert all(path.stat().st_size < (10 << 20) + (1 << 20) for path in logs)


def rss(pid: int) -> int:
    """Resident kilobytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_refused_is_a_typed_error(lab: Lab, decoy: Path) -> None:
    config = build_config("true")
    config["mounts"].append({"destination": "/proc/sys", "type": "bind", "source": str(decoy), "options": ["rbind"]})
    with pytest.raises(Refused, match="nothing may be mounted in /proc"):
        lab.run("typed", config=config)
