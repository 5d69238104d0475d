"""Users, environments and libraries of hostile images against the whole engine; numbers are rows of the attack list."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attacklab import SECRET, AttackLab, Decoy, compile_static, link, open_attack_lab
from registry import directory, entry

from agent.engine.execs import ExecOptions
from agent.engine.model import ContainerRecord, MountConfig, MountKind, ProcessConfig
from agent.errors import HoldfastError, Refused

pytestmark = pytest.mark.host
HOST_SECRETS = {f"HOLDFAST_CANARY_{number}": f"canary-{number}-5d1e" for number in range(10)} | {
    "SECRET": "canary-5d1e"
}


@pytest.fixture(scope="module")
def attack() -> Iterator[AttackLab]:
    """The agent's environment, and so its keeper's, is full of secrets."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HOST_SECRETS.items():
            patch.setenv(name, value)
        with open_attack_lab() as opened:
            yield opened


@pytest.fixture(scope="module")
def box(attack: AttackLab) -> Iterator[ContainerRecord]:
    """A container whose own user is not root."""
    with attack.running("box", image=attack.image(User="app")) as record:
        yield record


IDENTITY = "id -u; id -g; sed -n 's/Groups:.//p' /proc/self/status"
# with the image's passwd: app is 1000:1000 and in group 2000
USERS = {
    "1": "1 0 0",
    "1:1": "1 1 1",
    "0": "0 0 0",
    "root": "0 0 0",
    "app": "1000 1000 1000 2000",
    "1000": "1000 1000 1000 2000",
    "app:2000": "1000 2000 2000",
    "app:extra": "1000 2000 2000",
    "2147483647": "2147483647 0 0",
}
NO_USERS = (
    "nobody:",
    ":5",
    "-1",
    "1a",
    " 1",
    "1 ",
    "0x0",
    "+0",
    "-0",
    "root:",
    ":",
    "0:-1",
    "root:nogroup:x",
    "absent",
    "٠",
)
BIG = (2147483648, 4294967295, 4294967296, 10**20)


@pytest.mark.parametrize("user", USERS)
def test_row_18_users_are_who_they_say(attack: AttackLab, box: ContainerRecord, user: str) -> None:
    assert run_exec(attack, box, IDENTITY, user).split() == USERS[user].split()
    own = attack.lab.run(
        "own", "", image=attack.image(User=user), process=ProcessConfig(command=("sh", "-c", IDENTITY))
    )
    assert own.split() == USERS[user].split()


@pytest.mark.parametrize("user", [*NO_USERS, *map(str, BIG), *(f"1:{number}" for number in BIG)])
def test_rows_18_and_19_no_users(attack: AttackLab, box: ContainerRecord, user: str) -> None:
    """Also not when a line of the image's passwd gives user 0 the number for a name."""
    name = user.partition(":")[0]
    lines = "root:x:0:0::/root:/bin/sh\n" + (
        f"{name}:x:0:0::/root:/bin/sh\n" if name.isascii() and name.strip(" +-").isdecimal() else ""
    )
    image = attack.image([entry("etc/passwd", lines.encode())], User=user)
    with pytest.raises(HoldfastError) as caught:
        attack.lab.start("own", image=image, process=ProcessConfig())
    assert caught.value.reason == "InvalidUser"
    with pytest.raises(HoldfastError):
        attack.lab.start("own", image=image, process=ProcessConfig(user=user))
    with pytest.raises(HoldfastError):
        run_exec(attack, box, IDENTITY, user)


def test_row_18_no_user_is_the_next_ones_user_and_never_root(attack: AttackLab, box: ContainerRecord) -> None:
    for user in (None, ""):
        assert run_exec(attack, box, IDENTITY, user).split()[0] == "1000"
        process = ProcessConfig(command=("sh", "-c", IDENTITY), user=user)
        assert attack.lab.run("own", "", image=attack.image(User="app"), process=process).split()[0] == "1000"


def run_exec(attack: AttackLab, record: ContainerRecord, script: str, user: str | None) -> str:
    handle = attack.lab.engine.execs.start(record, ("sh", "-c", script), ExecOptions(user=user))
    with os.fdopen(handle.stdout_fd, "rb") as stream:
        output = stream.read().decode()
    os.close(handle.stderr_fd)
    assert handle.ended.result(60).code == 0
    return output


def test_row_20_supplementary_groups(attack: AttackLab, box: ContainerRecord) -> None:
    """A file that says no to group 2000 says no to app; none of the host's groups is there."""
    files = [entry("denied", b"not for the group\n", mode=0o604, gid=2000)]
    image = attack.image(files, User="app")
    script = "cat /denied || echo denied; sed -n 's/Groups:.//p' /proc/self/status"
    process = ProcessConfig(command=("sh", "-c", script))
    assert attack.lab.run("own", "", image=image, process=process).split()[-3:] == ["denied", "1000", "2000"]
    with attack.running("asked", image=image, process=ProcessConfig(user="0")) as record:
        assert run_exec(attack, record, script, "app").split() == ["denied", "1000", "2000"]
        assert run_exec(attack, record, "cat /denied", "app:1000") == "not for the group\n"
    assert run_exec(attack, box, "echo $HOME; id -G", "0").split() == ["/root", "0"]


def make_sparse_tar(path: str, size: int, directory: Path) -> bytes:
    """A layer with a file of ``size`` that is one hole, as GNU tar writes it."""
    source = directory / path
    source.parent.mkdir(parents=True)
    with source.open("wb") as file:
        file.truncate(size)
    command = ["tar", "-C", str(directory), "--format=pax", "--sparse", "-cf", "-", path]
    return subprocess.run(command, capture_output=True, check=True).stdout


def count_read_bytes() -> int:
    """What this process has read so far, wherever from."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("name", ["etc/passwd", "etc/group"])
@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse", "shadow", "dots", "directory", "loop"])
def test_row_21_traps_for_the_user_lookup(attack: AttackLab, tmp_path: Path, name: str, kind: str) -> None:
    away = "/etc/shadow" if kind == "shadow" else "../" * 30 + "etc/shadow"
    shapes: dict[str, Any] = {
        "fifo": entry(name, kind=tarfile.FIFOTYPE),
        "zero": link(name, "/dev/zero"),
        "shadow": link(name, away),
        "dots": link(name, away),
        "directory": directory(name),
        "loop": link(name, f"/{name}"),
    }
    if kind == "sparse":
        image = attack.image(tar=make_sparse_tar(name, 2 << 30, tmp_path), User="app")
    else:
        image = attack.image([entry(f"etc/.wh.{name[4:]}"), shapes[kind]], User="app")
    before = count_read_bytes()
    try:
        record = attack.lab.start(
            "trap", image=image, process=ProcessConfig(command=("grep", "Groups", "/proc/self/status"))
        )
    except HoldfastError as error:
        assert error.reason == "InvalidUser"
        assert not [line for line in Path("/etc/shadow").read_text().splitlines() if line in str(error)]
    else:
        assert (name, kind) in (("etc/group", "zero"), ("etc/group", "shadow"), ("etc/group", "dots")), "no such file"
        attack.lab.wait(record)
        assert attack.lab.output(record).split() == ["Groups:", "1000"]
        attack.lab.engine.containers.remove(record.id)
    assert count_read_bytes() - before < 1 << 30


def test_row_23_malformed_variables_of_the_image(attack: AttackLab) -> None:
    image = attack.image(Env=["PATH=/bin", "SECRET", "*", "HOLDFAST_*", "A=", "HOLDFAST_CANARY_1", "C=$SECRET"])
    output = attack.lab.run("clean", "env; cat /proc/1/environ /proc/self/environ", image=image)
    assert "5d1e" not in output
    assert "A=\n" in output
    assert "C=$SECRET\n" in output
    names = {line.partition("=")[0] for line in output.partition("\0")[0].splitlines() if "=" in line}
    assert names <= {"PATH", "HOSTNAME", "HOME", "A", "C", "SHLVL", "PWD", "OLDPWD"}
    with attack.running("box2", image=image) as record:
        assert "5d1e" not in run_exec(attack, record, "env; cat /proc/*/environ", None)


@pytest.mark.parametrize(
    "env", [["=SECRET"], [""], ["A=1", 5], ["A=1", None], {"A": "1"}, "A=1", [["A=1"]], ["A=\0SECRET"]]
)
def test_row_23_variables_that_are_no_strings(attack: AttackLab, env: Any) -> None:
    try:
        image = attack.image(Env=env)
    except Refused:
        return
    assert "5d1e" not in attack.lab.run("strange", "env", image=image)


def test_row_24_no_variable_goes_over_to_the_next_container(attack: AttackLab) -> None:
    """Starts and execs at random, four at a time: each sees its own variable or none."""
    image = attack.image()

    def one(number: int) -> None:
        own = {f"OWN_{number}": f"value-{number}"} if number % 3 else {}
        process = ProcessConfig(command=("sh", "-c", "env; sleep 86400"), environment=own)
        with attack.running(f"env{number}", image=image, process=process) as record:
            extra = {f"EXTRA_{number}": "x"} if dice.random() < 0.5 else {}
            handle = attack.lab.engine.execs.start(record, ("env",), ExecOptions(env=extra))
            with os.fdopen(handle.stdout_fd, "rb") as stream:
                seen = stream.read().decode() + attack.lab.output(record)
            os.close(handle.stderr_fd)
            handle.ended.result(60)
            foreign = [line for line in seen.splitlines() if line.startswith(("OWN_", "EXTRA_"))]
            assert set(foreign) <= {f"{name}={value}" for name, value in {**own, **extra}.items()}
            assert bool(own) == any(line.startswith("OWN_") for line in foreign)

    dice = random.Random(24)
    numbers = list(range(120))
    dice.shuffle(numbers)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, numbers))


def test_rows_25_and_26_volumes_are_filled_from_the_image_only(attack: AttackLab, tmp_path: Path) -> None:
    decoy = Decoy(tmp_path / "decoy")
    ways = {"absolute": str(decoy.path), "dots": decoy.by_dots, "deep": "/data/deep", "data/deep": decoy.by_dots}
    entries = [directory("data"), directory("real"), entry("real/file", b"of the image\n")]
    entries += [link(name, target) for name, target in ways.items()]
    image = attack.image([*entries, link("inside", "real")])
    for place in ("/absolute", "/dots", "/deep", "/data/deep", "/absolute/empty", "/dots/secret"):
        mounts = (MountConfig(MountKind.VOLUME, place, "filled"),)
        try:
            record = attack.lab.shell("copy", f"cat {place}/*", image=image, mounts=mounts)
            attack.lab.wait(record)
            assert SECRET.decode() not in attack.lab.output(record)
            attack.lab.engine.containers.remove(record.id)
        except HoldfastError:
            pass
        volume = attack.lab.engine.volumes.path("filled")
        assert not [path for path in volume.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
        attack.lab.engine.volumes.remove("filled")
        decoy.check()
    mounts = (MountConfig(MountKind.VOLUME, "/real", "filled"),)
    attack.lab.engine.volumes.ensure("filled", {})
    (attack.lab.engine.volumes.path("filled") / "file").write_text("of the user\n")
    assert attack.lab.run("kept", "cat /real/file", image=image, mounts=mounts) == "of the user\n"
    attack.lab.engine.volumes.remove("filled")


TROJAN = """
#include <fcntl.h>
__attribute__((constructor)) static void run(void) { open("/trojan-marker", O_CREAT | O_WRONLY, 0600); }
"""
PYTHON_TROJAN = b"import os\nopen('/trojan-marker', 'w').close()\n"


def test_row_30_nothing_of_the_image_is_loaded_by_us(attack: AttackLab, tmp_path: Path) -> None:
    library = compile_static(TROJAN, tmp_path, "-shared", "-fPIC").read_bytes()
    version = f"python3.{sys.version_info.minor}"
    folders = ("usr/lib", f"usr/lib/{version}", f"usr/lib/{version}/encodings", f"usr/local/lib/{version}", "encodings")
    entries = [directory(name) for name in ("lib", "lib64", "lib/x86_64-linux-gnu", *folders)]
    for folder in ("", *(f"{name}/" for name in folders)):
        entries += [
            entry(f"{folder}{name}.py", PYTHON_TROJAN) for name in ("idna", "sitecustomize", "os", "site", "pwd")
        ]
    for folder in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu"):
        for name in ("libnss_files.so.2", "libnss_trojan.so.2", "libc.so.6", "libpython3.so", "libseccomp.so.2"):
            entries.append(entry(f"{folder}/{name}", library, mode=0o755))
    entries.append(entry("etc/nsswitch.conf", b"passwd: trojan files\ngroup: trojan files\n"))
    entries.append(entry("etc/ld.so.preload", b"/lib/libnss_trojan.so.2\n"))
    image = attack.image(entries, User="app", WorkingDir="/encodings")
    with attack.running("trojan", image=image) as record:
        for user in (None, "app:extra", "root"):
            assert run_exec(attack, record, "ls /trojan-marker 2>&1; true", user).startswith("ls:")
        terminal = attack.lab.engine.execs.start(record, ("true",), ExecOptions(terminal=True, user="app"))
        assert terminal.ended.result(60).code == 0
        terminal.close()
        assert attack.lab.exec(record, "true") == (0, "")
        keeper = int((attack.lab.root / "run/keeper.pid").read_text())
        for pid in (os.getpid(), keeper):
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert "trojan" not in maps
            assert "/snapshots/" not in maps
    assert not Path("/trojan-marker").exists()


def test_row_19_numbers_are_never_looked_up_as_names(attack: AttackLab) -> None:
    lines = b"1234:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"
    image = attack.image([entry("etc/passwd", lines), entry("etc/group", b"1234:x:0:\n")], User="1234:1234")
    process = ProcessConfig(command=("sh", "-c", IDENTITY))
    assert attack.lab.run("own", "", image=image, process=process).split() == ["1234", "1234", "1234"]
    with attack.running("asked", image=image, process=ProcessConfig(user="1000")) as record:
        assert run_exec(attack, record, IDENTITY, "1234").split() == ["1234", "0", "0"]
