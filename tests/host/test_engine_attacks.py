"""Ways out of a container that other products left open, against the whole engine; numbers are rows of the attack list.

Images come from a real registry. The keeper alone is attacked in test_keeper_escape.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from attacklab import SECRET, AttackLab, Decoy, link, open_attack_lab
from registry import directory, entry

from agent.engine.execs import ExecOptions
from agent.engine.model import ContainerRecord, MountConfig, MountKind, ProcessConfig, SecurityConfig
from agent.errors import HoldfastError

pytestmark = pytest.mark.host
STARTS = 60
OUT = ("{absolute}", "{dots}")


@pytest.fixture(scope="module")
def attack() -> Iterator[AttackLab]:
    with open_attack_lab() as opened:
        yield opened


@pytest.fixture
def decoy(tmp_path: Path) -> Iterator[Decoy]:
    made = Decoy(tmp_path / "decoy")
    yield made
    made.check()


def fill(template: str, decoy: Decoy) -> str:
    return template.replace("{absolute}", str(decoy.path)).replace("{dots}", decoy.by_dots)


@pytest.fixture(autouse=True)
def nothing_is_left(attack: AttackLab) -> Iterator[None]:
    before = attack.leftovers
    yield
    assert attack.leftovers == before


def attempt(attack: AttackLab, name: str, script: str = "true", **changes: object) -> str | None:
    """The output of a script that may not be startable at all: then None."""
    try:
        record = attack.lab.shell(name, script, **changes)
    except HoldfastError:
        return None
    attack.lab.wait(record)
    output = attack.lab.output(record)
    attack.lab.engine.containers.remove(record.id)
    return output


@pytest.mark.parametrize("target", ["#!/proc/self/exe\n", "#!/proc/thread-self/exe\n"])
def test_row_1_entrypoint_is_a_script_of_its_own_executable(attack: AttackLab, target: str) -> None:
    image = attack.image([entry("evil", target.encode(), mode=0o755)], Entrypoint=["/evil"])
    with pytest.raises(HoldfastError):
        attack.lab.start("evil", image=image, process=ProcessConfig())
    idle = ProcessConfig(entrypoint=(), command=("sleep", "86400"))
    with attack.running("box", image=image, process=idle) as box, pytest.raises(HoldfastError):
        attack.lab.exec(box, "/evil")


SHAPES = ("/proc/self/fd/{n}", "/./proc//self/fd/{n}", "/link{n}", "/proc/1/fd/{n}/..", "/tmp/../proc/self/fd/{n}")


def test_row_2_descriptors_as_working_directory_of_an_exec(attack: AttackLab) -> None:
    image = attack.image([link(f"link{n}", f"/proc/self/fd/{n}") for n in range(3, 41)])
    with attack.running("box", "sleep", "86400", image=image) as box:
        for shape in SHAPES:
            for number in range(3, 41):
                with pytest.raises(HoldfastError):
                    attack.lab.engine.execs.start(box, ("pwd",), ExecOptions(cwd=shape.replace("{n}", str(number))))
        assert attack.lab.exec(box, "ls", "/proc/self/fd")[1].split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("shape", SHAPES)
def test_row_2_descriptors_as_working_directory(attack: AttackLab, shape: str) -> None:
    """Of an image, and of the container's own configuration. Descriptor 3 of ``ls`` is the directory it lists."""
    for number in (3, 11):
        cwd = shape.replace("{n}", str(number))
        image = attack.image([link(f"link{number}", f"/proc/self/fd/{number}")], WorkingDir=cwd)
        for process in (ProcessConfig(), ProcessConfig(command=("pwd",), working_dir=cwd)):
            with pytest.raises(HoldfastError):
                attack.lab.start("box", image=image, process=process)


@pytest.mark.parametrize("name", ["proc", "sys", "proc/self", "sys/fs"])
def test_row_3_proc_and_sys_of_the_image_are_links(attack: AttackLab, name: str) -> None:
    """A layer may not even hold ``proc -> /tmp/x`` unnoticed: nothing is written to the fake, or nothing starts."""
    whiteout = entry(f"{name.split('/')[0]}/.wh..wh..opq")
    shape = [link(name, "/tmp/x")] if "/" not in name else [whiteout, link(name, "/tmp/x")]
    image = attack.image([directory("tmp/x", 0o1777), *shape])
    sysctls = SecurityConfig(sysctls={"net.ipv4.ip_forward": "1"})
    output = attempt(attack, "fake", "cat /proc/sys/net/ipv4/ip_forward; ls -A /tmp/x", image=image, security=sysctls)
    assert output in (None, "1\n")


@pytest.mark.parametrize(
    "path", ["/proc", "/proc/self", "/way", "/way/deeper", "//proc/", "/./proc/sys", "/sys", "/dev"]
)
def test_row_4_volume_of_the_image_over_the_kernels_files(attack: AttackLab, path: str) -> None:
    image = attack.image([link("way", "/proc/self")], Volumes={path: {}})
    with pytest.raises(HoldfastError):
        attack.lab.start("hidden", "true", image=image)


@contextmanager
def swapping_peer(attack: AttackLab, volume: str, target: str) -> Iterator[MountConfig]:
    """A container that exchanges the directory ``place`` of a volume with a link, without end; its volume."""
    volumes = attack.lab.engine.volumes
    volumes.ensure(volume, {})
    (volumes.path(volume) / "place").mkdir()
    shared = MountConfig(MountKind.VOLUME, "/v", volume, copy_up=False)
    script = f"cd /v; ln -s {target} swap; while :; do mv -T place spare; mv -T swap place; "
    script += "mv -T place swap; mv -T spare place; done 2>/dev/null"
    with attack.running("peer", "sh", "-c", script, mounts=(shared,)):
        yield shared
    volumes.remove(volume)


def test_an_image_of_a_thousand_volumes_makes_none(attack: AttackLab) -> None:
    image = attack.image(Volumes={f"/v/{number}": {} for number in range(1000)})
    before = attack.lab.engine.volumes.list()
    with pytest.raises(HoldfastError, match="1000 volumes"):
        attack.lab.start("many", "true", image=image)
    assert attack.lab.engine.volumes.list() == before


def test_row_5_sysctls_meet_the_real_proc_while_a_peer_swaps(attack: AttackLab) -> None:
    kernel = [path for path in map(Path("/proc/sys/kernel").joinpath, ("core_pattern", "sysrq")) if path.exists()]
    before = [path.read_text() for path in kernel]
    security = SecurityConfig(sysctls={"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"})
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced"
    with swapping_peer(attack, "shared", "/proc/sys/kernel") as shared:
        mounts = (
            shared,
            MountConfig(MountKind.TMPFS, "/v/place/new", size=65536),
            MountConfig(MountKind.BIND, "/v/place/core_pattern", "/etc/hostname", read_only=True),
        )
        outputs = [attempt(attack, f"race{n}", script, mounts=mounts, security=security) for n in range(STARTS)]
    assert set(outputs) <= {None, "1\n1\n"}
    assert "1\n1\n" in outputs
    assert [path.read_text() for path in kernel] == before


@pytest.mark.parametrize("target", OUT)
def test_rows_6_7_8_devices_of_the_image_are_links(attack: AttackLab, decoy: Decoy, target: str) -> None:
    away = fill(target, decoy)
    image = attack.image([link("dev", away)])
    assert attempt(attack, "dev", "echo x > /dev/null; stat -c %t:%T /dev/null", image=image) in (None, "1:3\n")
    inside = [
        link("dev/null", "/proc/sys/kernel/core_pattern"),
        link("dev/console", f"{away}/secret"),
        link("dev/pts", away),
        link("dev/shm", away),
        link("dev/mqueue", away),
    ]
    image = attack.image(inside)
    process = ProcessConfig(terminal=True)
    script = "stat -c %t:%T /dev/null /proc/timer_list; echo x > /dev/shm/x; echo y > /proc/sys/kernel/core_pattern"
    output = attempt(attack, "nodes", "", image=image, process=replace(process, command=("sh", "-c", script)))
    assert output is None or output.split()[:2] == ["1:3", "1:3"]


GENERATED = ("etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/mtab", "etc/passwd", "etc/group", ".dockerenv")


@pytest.mark.parametrize("target", OUT)
def test_row_12_our_own_files_over_links(attack: AttackLab, decoy: Decoy, target: str) -> None:
    away = fill(target, decoy)
    entries = [link(name, f"{away}/{made}") for name, made in zip(GENERATED, ("secret", *GENERATED[:-1]), strict=True)]
    entries += [link("run", away), link("etc/dangling", f"{away}/made"), link("init", f"{away}/secret")]
    image = attack.image(entries)
    mounts = (
        MountConfig(MountKind.TMPFS, "/run/secrets", size=65536),
        MountConfig(MountKind.BIND, "/etc/dangling", "/etc/hostname", read_only=True),
    )
    process = ProcessConfig(command=("sh", "-c", "cat /etc/hosts /etc/hostname"), user="0:0", init=True)
    output = attempt(attack, "files", "", image=image, mounts=mounts, process=process)
    assert output is None or ("localhost" in output and SECRET.decode() not in output)


@pytest.mark.parametrize("kind", [MountKind.BIND, MountKind.VOLUME, MountKind.TMPFS])
@pytest.mark.parametrize("target", [*OUT, "/proc/1/root{absolute}", "/proc/self/cwd/{absolute}"])
def test_rows_9_11_and_22_destinations_below_links(
    attack: AttackLab, decoy: Decoy, target: str, kind: MountKind
) -> None:
    away = fill(target, decoy)
    image = attack.image([link("link", away), link("tmp/link", away)])
    for number, place in enumerate(("/link", "/link/new/deep", "/tmp/link/secret", "/tmp/link/empty/x")):
        source = {MountKind.BIND: "/etc/hostname", MountKind.VOLUME: f"v{kind}", MountKind.TMPFS: ""}[kind]
        mounts = (MountConfig(kind, place, source, read_only=kind is MountKind.BIND),)
        attempt(attack, f"mount{number}", "true", image=image, mounts=mounts)
        output = attempt(attack, f"cwd{number}", "", image=image, process=shell_in(place))
        assert output is None or SECRET.decode() not in output
        decoy.check()


def shell_in(directory: str) -> ProcessConfig:
    return ProcessConfig(command=("sh", "-c", "cat secret ../secret; touch here; true"), working_dir=directory)


def test_row_13_too_much_of_everything(attack: AttackLab) -> None:
    huge = "y" * (6 << 20)
    for changes in (
        {"process": ProcessConfig(command=("true",), environment={"X": huge})},
        {"process": ProcessConfig(command=("true", huge))},
        {"process": ProcessConfig(command=("true",), working_dir="/" + huge)},
        {"hostname": "h" * 70_000},
        {"mounts": tuple(MountConfig(MountKind.TMPFS, f"/tmp/{n}") for n in range(50_000))},
    ):
        with pytest.raises(HoldfastError):
            attack.lab.start("huge", "true", **changes)
    assert attack.lab.run("after", "echo well") == "well\n"


# vfs_cap_data of version 2: effective, nothing permitted, most of the first 32 inheritable
FILE_CAPABILITY = b"".join(word.to_bytes(4, "little") for word in (0x02000001, 0, 0x7F7F7F7F, 0, 0))


def test_row_14_nothing_is_inheritable(attack: AttackLab) -> None:
    headers = {"SCHILY.xattr.security.capability": FILE_CAPABILITY.decode()}
    gain = entry("gain/busybox", Path("/bin/busybox").read_bytes(), mode=0o755, pax_headers=headers)
    image = attack.image([directory("gain"), gain])
    script = "/gain/busybox grep -E 'Cap(Inh|Amb|Eff)' /proc/self/status"
    for security in (SecurityConfig(), SecurityConfig(cap_add=("ALL",))):
        with attack.running("box", "sleep", "86400", image=image, security=security) as box:
            for user in ("0", "1000", "1000:1000"):
                process = ProcessConfig(command=("sh", "-c", script), user=user)
                own = attack.lab.run("own", "", image=image, security=security, process=process)
                for output in (own, run_exec(attack, box, script, ExecOptions(user=user))):
                    fields = dict(line.split(":\t") for line in output.splitlines())
                    assert fields["CapInh"] == fields["CapAmb"] == "0" * 16
                    assert user == "0" or fields["CapEff"] == "0" * 16


def run_exec(attack: AttackLab, record: ContainerRecord, script: str, options: ExecOptions) -> str:
    handle = attack.lab.engine.execs.start(record, ("sh", "-c", script), options)
    with os.fdopen(handle.stdout_fd, "rb") as stream:
        output = stream.read().decode()
    os.close(handle.stderr_fd)
    assert handle.ended.result(60).code == 0
    return output


def test_row_10_volume_shared_with_a_peer_that_swaps(attack: AttackLab, decoy: Decoy) -> None:
    """What is mounted into the volume, and a part of it that is mounted elsewhere, never lies outside of it."""
    with swapping_peer(attack, "peers", decoy.by_dots) as shared:
        mounts = (
            shared,
            MountConfig(MountKind.TMPFS, "/v/place/new", size=65536),
            MountConfig(MountKind.BIND, "/v/place/file", "/etc/hostname", read_only=True),
            MountConfig(MountKind.VOLUME, "/sub", "peers", copy_up=False, subpath="place"),
        )
        outputs = [attempt(attack, f"race{n}", "cat /sub/secret 2>&1", mounts=mounts) for n in range(STARTS)]
    assert not [output for output in outputs if output and SECRET.decode() in output]
