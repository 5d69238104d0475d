"""Files of the desired state that are encrypted with age, so that a repository may hold what nobody should read in it.

They are recognised by their first bytes, never by their name, and decrypted in memory by whoever has the keys. What
comes out is shown nowhere: not in messages, and no digest of it without a key of this host.
Source: https://age-encryption.org/v1
"""

from __future__ import annotations

from typing import Protocol

from agent.errors import HoldfastError, Refused
from agent.spec.tree import Mark, Problems
from agent.values import frozen

BLIND = "hmac-sha256:"
"""What the digests of decrypted content begin with. They are not to be shown: beside one a guess could be tried."""

_BINARY = b"age-encryption.org/"
_ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
_SPACE = b"\xef\xbb\xbf \t\r\n"
_START = Mark(1, 1)


class Unreadable(HoldfastError):
    """There is no key here, and whoever looks can do without the content: a warning, not a problem."""

    reason = "Unreadable"


class Keys(Protocol):
    """Who decrypts."""

    def decrypt(self, data: bytes, /) -> bytes:
        """The content. Raises HoldfastError with a message that says what is wrong, not with which file."""

    def blind(self, data: bytes, /) -> str:
        """A digest of content, ``BLIND`` and hex digits, that tells nothing to those without a key of this host."""


@frozen
class NoKeys:
    """The keys of those who have none."""

    def decrypt(self, data: bytes, /) -> bytes:
        """Raises Refused."""
        raise Refused("is encrypted, and cannot be used here: decrypt it first")

    def blind(self, data: bytes, /) -> str:
        """Raises Refused."""
        raise Refused("there is no key")


def is_encrypted(data: bytes) -> bool:
    """Whether this is a file of age, binary or armored."""
    return data.startswith(_BINARY) or strip_armor(data).startswith(_ARMOR)


def strip_armor(data: bytes) -> bytes:
    """Armored text without what editors put before it; binary data as it is."""
    return data if data.startswith(_BINARY) else data.lstrip(_SPACE)


def decrypt_file(keys: Keys, data: bytes, file: str, problems: Problems) -> bytes | None:
    """What an encrypted file holds; None after noting at its first line why that cannot be known."""
    try:
        return keys.decrypt(data)
    except Unreadable as error:
        problems.doubt(_START, error.message, file)
    except HoldfastError as error:
        problems.add(_START, error.message, file)
    return None
