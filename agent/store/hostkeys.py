"""What opens the encrypted files of the desired state on this host."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from agent.errors import Refused
from agent.spec.encrypted import BLIND, Unreadable
from agent.store.age import NoMatch, check_header, decrypt
from agent.store.identities import Identities, NoIdentity, read_identities

_PURPOSE = b"holdfast: digests of what was decrypted"


class HostKeys:
    """The keys of an identity file, which is read each time one is needed, but parsed only when it is another than the
    last time: an RSA key takes long. Thread-safe."""

    def __init__(self, path: Path, secret: bytes | None = None, *, required: bool = True) -> None:
        """``secret`` is that of the digests; without one they differ from process to process. Not ``required``: where
        there is no identity file, or none that this user may read, encrypted files are left unread."""
        self.path = path
        self._secret = hmac.digest(secret or os.urandom(32), _PURPOSE, "sha256")
        self._required = required
        self._last: Identities | None = None

    def decrypt(self, data: bytes, /) -> bytes:
        """The content of an encrypted file. Raises Refused, and Unreadable where that is allowed."""
        check_header(data)
        try:
            identities = self._last = read_identities(self.path, self._last)
        except NoIdentity as error:
            if not self._required:
                raise Unreadable(f"is encrypted, and {error.message}: what is in it was not checked") from None
            raise Refused(f"is encrypted, and {error.message}: {error.hint}") from None
        except Refused as error:
            raise Refused(f"is encrypted, and {error}") from None
        try:
            return decrypt(data, identities.keys)
        except NoMatch as error:
            hint = "`holdfast key` prints whom to encrypt it for"
            raise Refused(f"{error.message}: no identity in {self.path} opens it; {hint}") from None

    def blind(self, data: bytes, /) -> str:
        """A digest of what was decrypted that nobody can compute without the secret."""
        return BLIND + hmac.new(self._secret, data, hashlib.sha256).hexdigest()
