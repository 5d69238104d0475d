"""The identity file: the secret keys of age that open what is encrypted for this host.

One of age's own (``age-keygen``): a key a line, lines with ``#`` are comments; the first key is the one to encrypt for,
the others open what was encrypted before. Or an SSH key without a passphrase, such as the host's ed25519 key.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import NotFound, Refused
from agent.store.age import panics_refused
from agent.store.atomic import sync_directory, write_all, write_atomic
from agent.values import frozen

if TYPE_CHECKING:
    from agent.store.age import Identity, Recipient

FILE_LIMIT = 64 << 10
IDENTITY_LIMIT = 16
_OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----"
_PEM = (_OPENSSH, "-----BEGIN RSA PRIVATE KEY-----")
_AGE_KEY = "AGE-SECRET-KEY-1"


class NoIdentity(NotFound):
    """There is no identity file."""

    reason = "NoIdentity"


class ClosedIdentity(NoIdentity):
    """There may be an identity file, but it is not for this user to look at."""


@frozen
class Identities:
    """What an identity file holds, its ``text``: secret keys, and the recipient of each as text, to be shown to
    everybody."""

    keys: tuple[Identity, ...] = field(repr=False)
    recipients: tuple[str, ...]
    text: str = field(repr=False)


def read_identities(path: Path, known: Identities | None = None) -> Identities:
    """The identities in ``path``; ``known``, if the same text gave those. Raises NoIdentity, Refused for a file that
    must not or cannot be used."""
    text = _read(path)
    if known is not None and known.text == text:
        return known
    return _read_ssh(path, text) if text.startswith(_PEM) else _read_age(path, text)


def make_identity(path: Path) -> tuple[Identities, bool]:
    """The identities in ``path``, and whether it was made now: when there is no such file one is, whole and closed to
    others, with a new identity. Raises ClosedIdentity, Refused, OSError.
    """
    made = False
    try:
        return read_identities(path), False
    except ClosedIdentity:
        raise
    except NoIdentity:
        made = _create(path, _generate())
    return read_identities(path), made


def _create(path: Path, data: bytes) -> bool:
    """Write a file unless there is one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(temporary, path)  # not rename: one that came meanwhile is the one that counts
        sync_directory(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def add_identity(path: Path) -> Identities:
    """Put a new identity before those in ``path``, from now on the one to encrypt for. Raises NoIdentity, Refused,
    OSError."""
    with _alone(path):
        text = _read(path)
        if text.startswith(_PEM):
            raise Refused(f"{path} is an SSH key, to which no other can be added", hint="name another --identity")
        if len(_read_age(path, text).keys) >= IDENTITY_LIMIT:
            raise Refused(f"{path} holds {IDENTITY_LIMIT} identities", hint="remove the oldest ones, at its end")
        write_atomic(path.resolve(), _generate() + text.encode())
    return read_identities(path)


def bring_identities(path: Path, data: bytes) -> None:
    """Put identities that were kept elsewhere into ``path``, behind those that are there. Raises Refused, OSError."""
    if not path.exists():
        write_atomic(path, data)
        return
    with _alone(path):
        known, brought = _read(path), data.decode("utf-8", "replace")
        if known == brought:
            return
        if known.startswith(_PEM) or brought.startswith(_PEM):
            hint = f"move {path} away, and give it to the agent as --identity if it is still needed"
            raise Refused(f"{path} is another identity, and one of SSH stands alone", hint=hint)
        there = [line for _, line in _lines(known)]
        missing = [line for _, line in _lines(brought) if line not in there and line.startswith(_AGE_KEY)]
        if len(there) + len(missing) > IDENTITY_LIMIT:
            hint = f"remove the oldest ones, at the end of {path}"
            raise Refused(f"{path} would hold more than {IDENTITY_LIMIT} identities", hint=hint)
        if missing:
            write_atomic(path.resolve(), "\n".join([known.rstrip("\n"), *missing, ""]).encode())


def parse_recipient(text: str) -> Recipient:
    """A recipient: ``age1...`` or an SSH public key. Raises Refused."""
    from pyrage import RecipientError, ssh, x25519

    try:
        with panics_refused(f"{text[:80]!r} is damaged"):
            return x25519.Recipient.from_str(text) if text.startswith("age1") else ssh.Recipient.from_str(text)
    except RecipientError as error:
        hint = "age1... as `holdfast key` prints it, or an ssh-ed25519 or ssh-rsa public key"
        raise Refused(f"{text[:80]!r} is no recipient: {error}", hint=hint) from None


def _generate() -> bytes:
    from pyrage import x25519

    identity = x25519.Identity.generate()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"# created: {now}\n# public key: {identity.to_public()}\n{identity}\n".encode()


def _read(path: Path) -> str:
    """The text of an identity file that only its owner can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoIdentity(f"there is no identity file {path}", hint="`holdfast key` makes one") from None
    except PermissionError:
        raise ClosedIdentity(f"the identity file {path} is not yours to read", hint="try it as root") from None
    except OSError as error:
        raise Refused(f"the identity file {path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"the identity file {path} is not a file")
        if status.st_mode & 0o077:
            hint = f"chmod 600 {path}, and make a new one with `holdfast key --new` if others may have read it"
            raise Refused(f"the identity file {path} can be read by others", hint=hint)
        data = os.read(descriptor, FILE_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(data) > FILE_LIMIT:
        raise Refused(f"the identity file {path} is larger than {FILE_LIMIT >> 10} KiB")
    return data.decode("utf-8", "replace")


def _read_age(path: Path, text: str) -> Identities:
    from pyrage import IdentityError, x25519

    keys: list[x25519.Identity] = []
    for number, line in _lines(text):
        if not line.startswith(_AGE_KEY):
            what = "a plugin's, which is not run" if line.startswith("AGE-PLUGIN-") else "none of age or SSH"
            raise Refused(f"{path}:{number}: the identity is {what}", hint="age-keygen and `holdfast key` make them")
        try:
            keys.append(x25519.Identity.from_str(line))
        except IdentityError as error:
            raise Refused(f"{path}:{number}: the identity cannot be used: {error}") from None
    if not 0 < len(keys) <= IDENTITY_LIMIT:
        raise Refused(f"{path} must hold from 1 to {IDENTITY_LIMIT} identities, not {len(keys)}")
    return Identities(tuple(keys), tuple(str(key.to_public()) for key in keys), text)


def _lines(text: str) -> Iterable[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return ((number, line) for number, line in numbered if line and not line.startswith("#"))


def _read_ssh(path: Path, text: str) -> Identities:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms
    from pyrage import IdentityError, ssh

    try:
        load = forms.load_ssh_private_key if text.startswith(_OPENSSH) else forms.load_pem_private_key
        public = load(text.encode(), password=None).public_key()
        with panics_refused("it is damaged"):
            key = ssh.Identity.from_buffer(text.encode())
    except (IdentityError, Refused, ValueError, TypeError, UnsupportedAlgorithm) as error:
        hint = "an ed25519 or RSA key without a passphrase can be used"
        raise Refused(f"the SSH key {path} cannot be used: {error}", hint=hint) from None
    shown = public.public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH).decode()
    return Identities((key,), (shown,), text)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else adds to the file in this block."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoIdentity(f"there is no identity file {path}", hint="`holdfast key` makes one") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                yield
                return
        finally:
            os.close(descriptor)
