"""What can go wrong with an image, each with its stable reason and disposition."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import HoldfastError, NotFound, Refused, Stalled, Waiting


class ImageNotFound(NotFound):
    """The registry does not have it, or it is not local and may not be pulled."""

    reason = "ImageNotFound"


class ImagePullFailed(Waiting):
    """The registry answered, but not with the image; trying again may help."""

    reason = "ImagePullFailed"
    asked: float = 0.0
    """Seconds the registry asked to be left alone (Retry-After)."""


class RegistryUnreachable(Waiting):
    """No connection, or it broke more often than is retried."""

    reason = "RegistryUnreachable"


class ProxyRefused(RegistryUnreachable):
    """A proxy answered that it does not lead there."""


class RegistryUnauthorized(Stalled):
    """The registry wants credentials that it was not given, or refuses those it was."""

    reason = "RegistryUnauthorized"


class UnexpectedAnswer(Refused):
    """The registry answered with an HTTP status that makes no sense, or refuses what was asked of it."""

    reason = "ImagePullFailed"

    def __init__(self, message: str, status: int, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.status = status


class HostileLayer(Refused):
    """A layer breaks a rule of safe unpacking; nothing of it is kept."""

    reason = "HostileLayer"


class UnfitForImage(HoldfastError):
    """The layer is to be unpacked as a tree: it has many entries, or attributes that only a file system can check."""

    reason = "UnfitForImage"


class NeedsMoreRoom(HoldfastError):
    """To unpack the layer takes more memory than was set apart for it."""

    reason = "NeedsMoreRoom"


class ComesTooSlowly(HoldfastError):
    """The layer is to be on the disk before it is unpacked: others can use the memory better that it needs."""

    reason = "ComesTooSlowly"


class DigestMismatch(Refused):
    """Content is not what its digest says."""

    reason = "DigestMismatch"


class ImageRejected(Stalled):
    """The image policy of this host does not let the image in."""

    reason = "ImageRejected"


class InvalidSignature(Refused):
    """A signature does not say what it would have to say, or no accepted key made it."""

    reason = "InvalidSignature"


class PullCancelled(HoldfastError):
    """Whoever asked for the pull does not want it any more; what was downloaded is kept for the next one."""

    reason = "PullCancelled"


class StorageFailed(Waiting):
    """The data root could not be written or read for another reason than being full."""

    reason = "StorageFailed"


class InsufficientStorage(Waiting):
    """The file system of the data root is full, or would be."""

    reason = "InsufficientStorage"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=30.0, hint="make room on the file system of the data root")


@contextmanager
def translated_storage_errors() -> Iterator[None]:
    """Turn a full disk, wherever it is met, into InsufficientStorage, and any other OSError into StorageFailed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientStorage("the disk is full") from error
        raise StorageFailed(f"the data root fails: {error.strerror or error}") from error
