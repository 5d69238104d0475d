"""key, encrypt, decrypt and validate: what they print, what they leave, what they refuse."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.cli.agentoptions import DEFAULT_IDENTITY
from agent.cli.main import run
from agent.source import reader

APP = "services: {web: {image: nginx, env_file: app.env, environment: {T: '${TOKEN:?}'}}}\n"
SECRET = "PASSWORD=hunter2\n"


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    return tmp_path / "data" / "age.key"


class Holdfast:
    """The command line in this process; after each call ``out`` and ``err`` are what was printed."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._patch = patch
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path, text: str = "") -> int:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        code = run(list(map(str, arguments)))
        sys.stdout.flush()
        self.out, self.err = self._capture.readouterr()
        return code


@pytest.fixture
def holdfast(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Holdfast:
    return Holdfast(capfd, monkeypatch)


def put(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_key_is_made_once_and_shown(holdfast: Holdfast, identity: Path) -> None:
    holdfast("key", "--identity", identity)
    first = holdfast.out
    assert first.startswith("age1")
    assert holdfast.err == f"made {identity}: keep a copy of it where it is safe\n"
    holdfast("key", "--identity", identity)
    assert (holdfast.out, holdfast.err) == (first, "")
    holdfast("key", "--identity", identity, "--new")
    fresh = holdfast.out.strip()
    holdfast("key", "--identity", identity, "--json")
    assert json.loads(holdfast.out) == {"identity": str(identity), "recipients": [fresh, first.strip()]}


def test_in_place_and_back(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    holdfast("key", "--identity", identity)
    one, other = put(tmp_path / "one.env", SECRET, 0o640), put(tmp_path / "other.env", "A=1\n")
    os.chown(one, 1234, 1235)
    link = tmp_path / "link.env"
    link.symlink_to(one.name)
    assert holdfast("encrypt", link, other, "--identity", identity) == 0
    assert link.is_symlink()
    status = one.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 1234, 1235)
    assert one.read_bytes().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----\n")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "one.env", "other.env", "link.env"}
    holdfast("decrypt", one, "--identity", identity)
    assert holdfast.out == SECRET
    before = other.read_bytes()
    assert holdfast("encrypt", other, "--identity", identity) == 1
    assert holdfast.err == f"error: {other} is encrypted already\n       --rekey encrypts it anew\n"
    assert other.read_bytes() == before
    assert holdfast("encrypt", "--rekey", other, "--identity", identity) == 0
    assert other.read_bytes() != before
    holdfast("decrypt", other, "--identity", identity)
    assert holdfast.out == "A=1\n"


def test_what_is_no_file_is_not_replaced(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    holdfast("key", "--identity", identity)
    device, good = tmp_path / "null", put(tmp_path / "good.env", SECRET)
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for line in ((device,), (good, "-o", device)):
        assert holdfast("encrypt", *line, "--identity", identity) == 1
        assert holdfast.err.startswith(f"error: {device} is not a file\n")
    assert stat.S_ISCHR(device.stat().st_mode)
    end, writer = os.pipe()
    threading.Timer(0.05, lambda: (os.write(writer, SECRET.encode()), os.close(writer))).start()
    assert holdfast("encrypt", f"/proc/self/fd/{end}", "-o", good, "--identity", identity) == 0
    holdfast("decrypt", good, "--identity", identity)
    assert holdfast.out == SECRET, "a pipe that says nothing yet is waited for"


def test_a_file_that_others_write_or_name(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    holdfast("key", "--identity", identity)
    file = put(tmp_path / "a.env", SECRET)
    with file.open("a"):
        assert holdfast("encrypt", file, "--identity", identity) == 1
        assert "is being written" in holdfast.err
    assert file.read_text() == SECRET
    (tmp_path / "b.env").hardlink_to(file)
    assert holdfast("encrypt", file, "--identity", identity) == 0
    assert holdfast.err.startswith(f"{file} has other names (hard links): under those it is what it was\n")


def test_a_link_does_not_lead_elsewhere(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    holdfast("key", "--identity", identity)
    shadow, link = put(tmp_path / "etc" / "shadow", SECRET), tmp_path / "state" / "app.env"
    link.parent.mkdir()
    link.symlink_to("../etc/shadow")
    for line in ((link,), (put(tmp_path / "a.env", SECRET), "-o", link)):
        assert holdfast("encrypt", *line, "--identity", identity) == 1
        assert holdfast.err == (f"error: {link} is a link to {shadow}\n       name that file itself if it is meant\n")
    assert shadow.read_text() == SECRET


def test_nothing_is_written_when_one_file_cannot_be(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    holdfast("key", "--identity", identity)
    good = put(tmp_path / "good.env", SECRET)
    assert holdfast("encrypt", good, tmp_path / "absent", "--identity", identity) == 1
    assert holdfast.err == f"error: {tmp_path}/absent: No such file or directory\n"
    assert good.read_text() == SECRET
    holdfast("encrypt", good, put(tmp_path / "large", "x" * (1 << 20)), "--identity", identity)
    assert "would be larger than 1 MiB when encrypted" in holdfast.err
    assert good.read_text() == SECRET


def test_for_others(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    recipients = []
    for name in ("laptop", "second"):
        subprocess.run(["age-keygen", "-o", tmp_path / name], check=True, capture_output=True)
        shown = subprocess.run(["age-keygen", "-y", tmp_path / name], check=True, capture_output=True, text=True)
        recipients.append(shown.stdout.strip())
    listed = put(tmp_path / "recipients", f"# whom\n\n{recipients[1]}\n")
    file, out = put(tmp_path / "a.env", SECRET), tmp_path / "out"
    line = ("encrypt", file, "-r", recipients[0], "-R", listed, "--identity", identity)
    assert holdfast(*line, "-o", "-") == 0
    assert holdfast.err == f"encrypted {file} for {recipients[0]}, {recipients[1]}\n", "no identity, nothing is made"
    holdfast("key", "--identity", identity)
    own = holdfast.out.strip()
    assert holdfast(*line, "-o", out) == 0
    assert holdfast.err == f"encrypted {out} for {own}, {recipients[0]}, {recipients[1]}\n"
    assert file.read_text() == SECRET
    for name in ("laptop", "second"):
        opened = subprocess.run(["age", "-d", "-i", tmp_path / name, out], check=True, capture_output=True, text=True)
        assert opened.stdout == SECRET
    holdfast("decrypt", out, "--identity", identity)
    assert holdfast.out == SECRET
    holdfast("encrypt", "--rekey", out, "-r", recipients[0], "--identity", identity)
    assert holdfast.err.startswith(f"{out} was for 3 recipients: name them with -r again if they need it\nencrypted")
    holdfast("encrypt", "-", "--only", "-r", recipients[0], "--identity", identity, text=SECRET)
    assert holdfast("decrypt", "-", "--identity", identity, text=holdfast.out) == 1
    assert "the input is not encrypted for this host" in holdfast.err


def test_mistakes_say_what_to_do(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "a.env", SECRET)
    assert holdfast("encrypt", file, "--identity", identity) == 1
    assert holdfast.err.splitlines() == [
        f"error: there is no identity file {identity}",
        "       `holdfast key` makes one, or say with -r whom to encrypt for",
    ]
    for said, line in (
        ("is no recipient", ("encrypt", file, "--only", "-r", "age1nobody")),
        ("one FILE only", ("encrypt", file, "-", "-r", "age1nobody")),
        ("needs -r or -R", ("encrypt", file, "--only")),
        ("a.env is not encrypted with age", ("decrypt", file)),
    ):
        assert holdfast(*line) == 1
        assert said in holdfast.err
    holdfast("key", "--identity", identity)
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        for command in (("key",), ("encrypt", file), ("decrypt", file)):
            assert holdfast(*command, "--identity", identity) == 1
    finally:
        os.seteuid(0)
    assert file.read_text() == SECRET


def test_validate_with_and_without_the_identity(holdfast: Holdfast, identity: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    put(state / "shop.yaml", APP)
    files = [put(state / "app.env", SECRET), put(state / ".env", "TOKEN=t\n")]
    holdfast("key", "--identity", identity)
    holdfast("encrypt", *files, "--identity", identity)
    assert holdfast("validate", state, "--identity", identity) == 0
    assert holdfast.out == "ok    shop: web\n"
    assert holdfast("validate", state, "--identity", tmp_path / "none") == 1
    assert f"error {state}/app.env:1:1: is encrypted, and there is no identity file" in holdfast.out
    if DEFAULT_IDENTITY.exists():
        pytest.skip("this machine has an identity of its own")
    assert holdfast("validate", state, "--json") == 0
    (app,) = json.loads(holdfast.out)["apps"]
    assert [Path(warning["file"]).name for warning in app["warnings"]] == [".env", "app.env"]
    files[0].write_bytes(files[0].read_bytes()[:-50])
    assert holdfast("validate", state) == 1
    assert "app.env:1:1: is damaged" in holdfast.out, "what can be seen without a key"


def test_an_app_is_decrypted_at_a_bounded_cost(
    holdfast: Holdfast, identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recipient is tried with each identity, and whoever wrote the file says how many there are."""
    monkeypatch.setattr(reader, "WEIGHT_LIMIT", 2)
    state = tmp_path / "state"
    files = [put(state / name, SECRET) for name in ("a", "b", "c")]
    holdfast("key", "--identity", identity)
    holdfast("encrypt", *files, "--identity", identity)
    put(state / "shop.yaml", "services: {web: {image: nginx, env_file: [a, b]}}\n")
    assert holdfast("validate", state, "--identity", identity) == 0
    put(state / "shop.yaml", "services: {web: {image: nginx, env_file: [a, b, c]}}\n")
    assert holdfast("validate", state, "--identity", identity) == 1
    told = "the encrypted files of this app have more than 2 recipients together"
    assert holdfast.out.startswith(f"error {state}/c:1:1: is not looked at: {told}")
