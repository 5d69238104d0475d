"""The identity file: made once and whole, closed to others, added to without losing anything."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyrage import encrypt as seal
from pyrage import x25519

from agent.errors import HoldfastError, Refused
from agent.spec.encrypted import BLIND, Unreadable
from agent.store.hostkeys import HostKeys
from agent.store.identities import (
    IDENTITY_LIMIT,
    Identities,
    NoIdentity,
    add_identity,
    bring_identities,
    make_identity,
    parse_recipient,
    read_identities,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "age.key"


def together(call: Callable[[], object], count: int = 6) -> None:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def put(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def new() -> str:
    return str(x25519.Identity.generate())


def test_the_first_use_makes_one_as_age_keygen_does(path: Path) -> None:
    found, made = make_identity(path)
    assert made
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]
    shown = subprocess.run(["age-keygen", "-y", path], capture_output=True, text=True, check=True).stdout
    assert (shown.strip(),) == found.recipients
    assert make_identity(path)[0].recipients == found.recipients
    assert not make_identity(path)[1]
    assert "AGE-SECRET" not in repr(found)


def test_many_first_uses_at_once_make_one(path: Path) -> None:
    found: list[tuple[Identities, bool]] = []
    together(lambda: found.append(make_identity(path)))
    assert {identities.recipients for identities, _ in found} == {read_identities(path).recipients}
    assert [made for _, made in found].count(True) == 1
    assert list(path.parent.iterdir()) == [path]


def test_added_ones_come_first_and_none_is_lost(path: Path) -> None:
    (first,) = make_identity(path)[0].recipients
    together(lambda: add_identity(path))
    found = read_identities(path).recipients
    assert len(set(found)) == 7
    assert found[-1] == first
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NoIdentity):
        add_identity(path.with_name("absent"))
    for _ in range(IDENTITY_LIMIT - 7):
        add_identity(path)
    with pytest.raises(Refused, match="holds 16 identities"):
        add_identity(path)


def test_what_must_not_or_cannot_be_used(path: Path) -> None:
    with pytest.raises(NoIdentity, match=r"there is no identity file .*age\.key") as absent:
        read_identities(path)
    assert absent.value.hint == "`holdfast key` makes one"
    key = new()
    for text, mode, what in (
        (key, 0o640, "can be read by others"),
        (key, 0o604, "can be read by others"),
        ("# nothing\n", 0o600, "must hold from 1 to 16 identities, not 0"),
        (f"{key}\n" * 17, 0o600, "not 17"),
        (f"# one\n{key[:-1]}\n", 0o600, r"age\.key:2: the identity cannot be used"),
        (f"{key}\nAGE-PLUGIN-YUBIKEY-1XX\n", 0o600, r"age\.key:2: the identity is a plugin's, which is not run"),
        ("hunter2", 0o600, r"age\.key:1: the identity is none of age or SSH"),
        ("#" * 70_000, 0o600, "larger than 64 KiB"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n", 0o600, "SSH key .* cannot be used"),
    ):
        with pytest.raises(Refused, match=what) as caught:
            read_identities(put(path, text, mode))
        assert "hunter2" not in str(caught.value)
        assert key[20:40] not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match="not a file"):
        read_identities(path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(Refused, match="not a file"):
        read_identities(path)


def test_ssh_keys_with_a_passphrase_or_of_another_kind_are_refused(path: Path) -> None:
    path.parent.mkdir()
    for kind, passphrase in (("ed25519", "secret"), ("ecdsa", "")):
        file = path.with_name(kind)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", file], check=True)
        with pytest.raises(Refused, match="cannot be used") as caught:
            read_identities(file)
        assert caught.value.hint == "an ed25519 or RSA key without a passphrase can be used"
    file = path.with_name("host")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
    with pytest.raises(Refused, match="to which no other can be added"):
        add_identity(file)
    with pytest.raises(Refused, match="is no recipient"):
        parse_recipient(path.with_name("ecdsa.pub").read_text())


def test_those_of_a_backup_come_behind(path: Path, tmp_path: Path) -> None:
    (old,) = make_identity(path)[0].recipients
    kept = path.read_bytes()
    bring_identities(tmp_path / "other.key", kept)
    assert (tmp_path / "other.key").read_bytes() == kept
    (fresh,) = make_identity(tmp_path / "third.key")[0].recipients
    for _ in range(2):
        bring_identities(tmp_path / "third.key", kept)
        assert read_identities(tmp_path / "third.key").recipients == (fresh, old)


def test_what_cannot_stand_beside_an_identity_is_not_dropped(path: Path, tmp_path: Path) -> None:
    make_identity(path)
    before = path.read_bytes()
    many = "".join(f"{new()}\n" for _ in range(16)).encode()
    for said, data in (("SSH stands alone", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"), ("more than 16", many)):
        with pytest.raises(Refused, match=said):
            bring_identities(path, data)
    bring_identities(path, b"damaged\n" + before)
    assert path.read_bytes() == before


def test_keys_that_the_library_cannot_take_are_refused(tmp_path: Path) -> None:
    """It panics at a number without a digit."""
    wire = b"\0\0\0\x07ssh-rsa" + b"\0\0\0\1\0" * 2
    with pytest.raises(Refused, match="is damaged"):
        parse_recipient(f"ssh-rsa {base64.b64encode(wire).decode()}")
    file = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", file], check=True)
    head, *lines, end = file.read_text().splitlines()
    key = base64.b64decode("".join(lines))
    where = key.rindex(b"\0\0\0\x07ssh-rsa") + 600
    for changed in (key[:where] + bytes(len(key) - where), key[:where]):
        put(file, "\n".join([head, base64.b64encode(changed).decode(), end, ""]))
        with pytest.raises(Refused, match="cannot be used"):
            read_identities(file)


def test_host_keys_read_the_file_when_they_are_asked(path: Path) -> None:
    keys, other = HostKeys(path, b"s"), x25519.Identity.generate()
    data = seal(b"A=1", [other.to_public()])
    with pytest.raises(Refused, match=r"is encrypted, and there is no identity file .*: `holdfast key` makes one"):
        keys.decrypt(data)
    with pytest.raises(Unreadable, match="was not checked"):
        HostKeys(path, required=False).decrypt(data)
    make_identity(path)
    with pytest.raises(Refused, match=r"no identity in .*age\.key opens it; `holdfast key` prints whom"):
        keys.decrypt(data)
    with pytest.raises(Refused, match="not encrypted for this host"):
        HostKeys(path, required=False).decrypt(data)
    put(path, f"{new()}\n{other}\n")
    assert keys.decrypt(data) == b"A=1"
    path.chmod(0o644)
    with pytest.raises(HoldfastError, match="can be read by others"):
        keys.decrypt(data)


def test_digests_tell_nothing_without_the_secret(path: Path) -> None:
    one, same, other = HostKeys(path, b"s"), HostKeys(path, b"s"), HostKeys(path, b"t")
    assert one.blind(b"A=1") == same.blind(b"A=1") != other.blind(b"A=1")
    assert one.blind(b"A=1") != one.blind(b"A=2")
    assert one.blind(b"").startswith(BLIND)
    assert HostKeys(path).blind(b"") != HostKeys(path).blind(b"")
