"""Encrypted files: Debian's age is the oracle, and nothing but what was encrypted ever comes out."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrage import encrypt as seal
from pyrage import x25519

from agent.errors import HoldfastError, Refused
from agent.spec.encrypted import is_encrypted
from agent.store.age import RECIPIENT_LIMIT, SIZE_LIMIT, NoMatch, decrypt, encrypt, read_stanzas
from agent.store.identities import parse_recipient, read_identities

CLEAR = b"PASSWORD=hunter2\n"
OWN, OTHER = x25519.Identity.generate(), x25519.Identity.generate()
BINARY, ARMORED = (seal(CLEAR, [OWN.to_public()], armored=armored) for armored in (False, True))
END = b"-----END AGE ENCRYPTED FILE-----"
PASSPHRASE = b"age-encryption.org/v1\n-> scrypt c2FsdHNhbHRzYWx0c2FsdA 22\n" + b"A" * 43 + b"\n--- " + b"A" * 43 + b"\n"


def age(*arguments: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(["age", *arguments], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Identity files by kind, made by Debian's programs; each has its recipient beside it, with ``.pub``."""
    place = tmp_path_factory.mktemp("keys")
    made = place / "age"
    subprocess.run(["age-keygen", "-o", made], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", made], check=True, capture_output=True, text=True).stdout
    (place / "age.pub").write_text(public)
    for kind, options in (("ed25519", []), ("rsa", ["-b", "2048"])):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, *options, "-N", "", "-f", place / kind], check=True)
    return {name: place / name for name in ("age", "ed25519", "rsa")}


@pytest.mark.parametrize("kind", ["age", "ed25519", "rsa"])
@pytest.mark.parametrize("options", [(), ("-a",)])
def test_age_and_we_read_each_other(keys: dict[str, Path], kind: str, options: tuple[str, ...]) -> None:
    public = Path(f"{keys[kind]}.pub").read_text().strip()
    found = read_identities(keys[kind])
    assert public.startswith(found.recipients[0])
    assert decrypt(age(*options, "-r", public, data=CLEAR), found.keys) == CLEAR
    assert age("-d", "-i", keys[kind], data=encrypt(CLEAR, [parse_recipient(public)])) == CLEAR
    assert age("-d", "-i", keys[kind], data=encrypt(CLEAR, [OWN.to_public(), parse_recipient(public)])) == CLEAR


@pytest.mark.parametrize(
    "data",
    [
        BINARY,
        ARMORED,
        b"\xef\xbb\xbf" + ARMORED,
        b"\n  \r\n" + ARMORED + b"\n\n",
        ARMORED.replace(b"\n", b"\r\n"),
        ARMORED.rstrip(b"\n"),
    ],
)
def test_all_forms_are_recognised_and_read(data: bytes) -> None:
    assert is_encrypted(data)
    assert decrypt(data, [OTHER, OWN]) == CLEAR


@pytest.mark.parametrize("data", [b"", b"A=1", b"age", b"-----BEGIN PGP MESSAGE-----\n", b"#-----BEGIN AGE ENCRYPTED"])
def test_other_files_are_not(data: bytes) -> None:
    assert not is_encrypted(data)


def test_of_every_size() -> None:
    for size in (0, 1, 65535, 65536, 65537, 700_000):
        clear = bytes(size)
        assert decrypt(encrypt(clear, [OWN.to_public()]), [OWN]) == clear
    with pytest.raises(Refused, match="larger than 1 MiB"):
        encrypt(bytes(SIZE_LIMIT), [OWN.to_public()])
    with pytest.raises(Refused, match="larger than 1 MiB"):
        decrypt(seal(bytes(SIZE_LIMIT), [OWN.to_public()]), [OWN])


def test_who_is_refused() -> None:
    with pytest.raises(NoMatch, match="not encrypted for this host"):
        decrypt(BINARY, [OTHER])
    armored = b"\n".join([b"-----BEGIN AGE ENCRYPTED FILE-----", base64.b64encode(PASSPHRASE), END, b""])
    for data in (PASSPHRASE, armored):
        with pytest.raises(Refused, match="with a passphrase"):
            decrypt(data, [OWN])


def test_recipients_are_bounded_before_any_key_is_tried() -> None:
    many = [OTHER.to_public()] * (RECIPIENT_LIMIT + 1)
    for armored in (False, True):
        with pytest.raises(Refused, match="more than 64 recipients"):
            decrypt(seal(CLEAR, many, armored=armored), [OWN])
    with pytest.raises(Refused, match="more than 64 recipients"):
        encrypt(CLEAR, many)
    assert decrypt(seal(CLEAR, [*many[2:], OWN.to_public()]), [OWN]) == CLEAR
    stanza = b"-> " + b"x" * 70_000 + b"\n" + b"-> X25519 a\n" * 1000
    with pytest.raises(Refused, match="header of more than 64 KiB"):
        decrypt(BINARY.replace(b"-> X25519", stanza + b"-> X25519", 1), [OWN])


def test_an_rsa_key_is_tried_once(keys: dict[str, Path]) -> None:
    """Each try takes long, and whoever made the file says how many there are."""
    recipient = parse_recipient(Path(f"{keys['rsa']}.pub").read_text().strip())
    identities = read_identities(keys["rsa"]).keys
    with pytest.raises(Refused, match="the same RSA key more than once"):
        decrypt(seal(CLEAR, [recipient] * 2), identities)
    assert decrypt(seal(CLEAR, [recipient, OTHER.to_public()]), identities) == CLEAR


def test_stanzas_are_named() -> None:
    assert [kind for kind, _ in read_stanzas(BINARY)] == [kind for kind, _ in read_stanzas(ARMORED)] == ["X25519"]
    assert read_stanzas(b"") == read_stanzas(b"age-encryption.org/v1") == []


@pytest.mark.parametrize("whole", [BINARY, ARMORED], ids=["binary", "armored"])
def test_nothing_that_was_cut_short_is_read(whole: bytes) -> None:
    for size in range(len(whole.rstrip(b"\n")) if whole is ARMORED else len(whole)):
        with pytest.raises(Refused):
            decrypt(whole[:size], [OWN])


@given(whole=st.sampled_from([BINARY, ARMORED]), data=st.data())
def test_a_changed_file_is_refused_or_says_the_same(whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(max_size=4))
    changed = whole[:at] + piece + whole[at + data.draw(st.integers(0, 4)) :]
    try:
        assert decrypt(changed, [OWN]) == CLEAR
    except HoldfastError as error:
        assert "hunter2" not in str(error)
    if whole is BINARY and changed != whole:
        with pytest.raises(Refused):
            decrypt(changed, [OWN])


@given(st.sampled_from([b"", b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----\n"]), st.binary())
def test_any_bytes_are_answered(head: bytes, rest: bytes) -> None:
    with pytest.raises(Refused):
        decrypt(head + rest, [OWN])
