"""Documents that hold secrets, sealed for the database: whoever gets a copy of it reads nothing of them.

The key is a file of the data root beside the database, 0600. It protects copies of the database (backups, support
bundles, what a file system has not yet overwritten); it cannot protect from root on this host.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.errors import Stalled
from agent.store.aead import KEY_SIZE, NONCE_SIZE, AesGcm, AuthenticationFailed
from agent.store.atomic import write_atomic

_FORM = b"\x01"


class Seal:
    """Seals texts under one key, each to the place it is stored at. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AesGcm(key)

    def seal(self, text: str, place: str) -> bytes:
        """``text`` as bytes that only ``unseal`` with the same place reads.

        The nonce is random: good for 2^32 texts under one key.
        """
        nonce = os.urandom(NONCE_SIZE)
        return _FORM + nonce + self._cipher.encrypt(nonce, text.encode(), place.encode())

    def unseal(self, sealed: bytes, place: str) -> str:
        """The text. Raises Stalled when it was sealed under another key or for another place, or was changed."""
        form, nonce, rest = sealed[:1], sealed[1 : 1 + NONCE_SIZE], sealed[1 + NONCE_SIZE :]
        try:
            if form != _FORM:
                raise AuthenticationFailed
            return self._cipher.decrypt(nonce, rest, place.encode()).decode()
        except AuthenticationFailed:
            raise Stalled(
                f"the record {place} of the database cannot be unsealed",
                reason="RecordSealed",
                hint="put back the key file that belongs to holdfast.db, or move holdfast.db aside and start again: "
                "containers are made anew, volumes and images stay",
            ) from None


def load_key(path: Path) -> bytes:
    """The key in ``path``; a new one is made, and is on the disk, when there is none. Raises Stalled."""
    try:
        key = _read_key(path)
        if key is None:
            key = os.urandom(KEY_SIZE)
            write_atomic(path, key)
    except OSError as error:
        raise Stalled(f"the key file {path} cannot be used: {error.strerror}", reason="InvalidKey") from error
    if len(key) != KEY_SIZE:
        raise Stalled(
            f"{path} is not a key of {KEY_SIZE} bytes",
            reason="InvalidKey",
            hint="put the right file back, or move it and holdfast.db aside and start again",
        )
    return key


def _read_key(path: Path) -> bytes | None:
    """What is there, no more than shows that it is no key; None for nothing. It is closed to everybody else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        if status.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        return file.read(KEY_SIZE + 1)
