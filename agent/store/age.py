"""Encryption with age, by the Rust library of that name: https://age-encryption.org/v1

pyrage is loaded by the first file that needs it. Nothing here asks for a passphrase or runs a plugin.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from agent.errors import Refused
from agent.spec.encrypted import strip_armor

if TYPE_CHECKING:
    from pyrage import ssh, x25519

    Identity: TypeAlias = x25519.Identity | ssh.Identity
    Recipient: TypeAlias = x25519.Recipient | ssh.Recipient

SIZE_LIMIT = 1 << 20
RECIPIENT_LIMIT = 64
_HEADER_LIMIT = 64 << 10
_TAG = 5  # characters in which the names of keys differ: to try an RSA key takes long
_RSA_WEIGHT = 16
_NO_MATCH = "No matching keys"
_ARMOR_END = b"-----END AGE ENCRYPTED FILE-----"
_PASSPHRASE = "is encrypted with a passphrase, which nobody is there to type: encrypt it with `holdfast encrypt`"


class NoMatch(Refused):
    """None of the identities opens the file."""


def decrypt(data: bytes, identities: Sequence[Identity]) -> bytes:
    """What an encrypted file of at most 1 MiB holds, all of it verified. Raises Refused, NoMatch."""
    check_header(data)
    from pyrage import DecryptError
    from pyrage import decrypt as open_file

    try:
        with panics_refused("cannot be decrypted"):
            clear: bytes = open_file(strip_armor(data), identities)
    except DecryptError as error:
        if _NO_MATCH in str(error):
            raise NoMatch("is not encrypted for this host, or was changed") from None
        raise Refused(f"is damaged, cut short or changed after it was encrypted ({error}): encrypt it again") from None
    return clear


def encrypt(clear: bytes, recipients: Sequence[Recipient]) -> bytes:
    """An armored file of at most 1 MiB that each of the recipients can decrypt. Raises Refused."""
    from pyrage import EncryptError
    from pyrage import encrypt as seal_file

    if len(recipients) > RECIPIENT_LIMIT:
        raise Refused(f"is for more than {RECIPIENT_LIMIT} recipients")
    try:
        with panics_refused("cannot be encrypted: a recipient is damaged"):
            data: bytes = seal_file(clear, recipients, armored=True)
    except EncryptError as error:
        raise Refused(f"cannot be encrypted: {error}") from None
    if len(data) > SIZE_LIMIT:
        raise Refused(f"would be larger than {SIZE_LIMIT >> 20} MiB when encrypted, more than is read of a file")
    return data


@contextmanager
def panics_refused(message: str) -> Iterator[None]:
    """Raises Refused where the library gives up on a key that it did not expect, which is no Exception otherwise."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Refused(message) from None


def _check_end(header: bytes) -> None:
    """A header that does not end is not searched for an end: each recipient costs time."""
    if len(header) >= _HEADER_LIMIT and b"\n---" not in header:
        raise Refused(f"has a header of more than {_HEADER_LIMIT >> 10} KiB")


def check_header(data: bytes) -> None:
    """See what can be seen without a key: size, whom it is for, and that the end of an armored file is there.

    Raises Refused. What is not checked here, and the header's own MAC, is checked with the first key that fits.
    """
    if len(data) > SIZE_LIMIT:
        raise Refused(f"is larger than {SIZE_LIMIT >> 20} MiB")
    stanzas = read_stanzas(data)
    if any(kind == "scrypt" for kind, _ in stanzas):
        raise Refused(_PASSPHRASE)
    if len(stanzas) > RECIPIENT_LIMIT:
        raise Refused(f"is encrypted for more than {RECIPIENT_LIMIT} recipients: leave some out")
    tags = [rest[:_TAG] for kind, rest in stanzas if kind == "ssh-rsa"]
    if len(set(tags)) < len(tags):
        raise Refused("is encrypted for the same RSA key more than once: name each recipient once")
    text = strip_armor(data)
    if text.startswith(b"-----") and not text.rstrip().endswith(_ARMOR_END):
        raise Refused("is damaged, its last line is not the end of an encrypted file: encrypt it again")


def weigh(data: bytes) -> int:
    """How much it may cost to decrypt a file: 1 for each recipient, 16 for an RSA key. Raises Refused."""
    return sum(_RSA_WEIGHT if kind == "ssh-rsa" else 1 for kind, _ in read_stanzas(data))


def read_stanzas(data: bytes) -> list[tuple[str, str]]:
    """The recipients that a header names, as far as it can be read: the kind (X25519, scrypt, ssh-rsa, ...) and what
    stands behind it.

    Raises Refused for a header that is too large.
    """
    text = strip_armor(data)
    header = _unarmor(text) if text.startswith(b"-----") else text[:_HEADER_LIMIT]
    _check_end(header)
    found: list[tuple[str, str]] = []
    for line in header.split(b"\n")[1:]:
        if line.startswith(b"---"):
            break
        if line.startswith(b"-> "):
            kind, _, rest = line[3:].decode("ascii", "replace").partition(" ")
            found.append((kind, rest))
    return [(kind, rest) for kind, rest in found if not kind.endswith("-grease")]


def _unarmor(text: bytes) -> bytes:
    """The beginning of what an armored file holds."""
    found = b""
    for line in text.splitlines()[1:]:
        try:
            found += base64.b64decode(line, validate=True)
        except binascii.Error:
            break
        if len(found) > _HEADER_LIMIT:
            break
    return found
