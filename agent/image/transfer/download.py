"""One blob from a registry to the content store: streamed, hashed as it comes, resumed after a cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator

from agent.errors import HoldfastError, Waiting
from agent.image.errors import DigestMismatch, ImagePullFailed, InsufficientStorage, translated_storage_errors
from agent.image.registry.pace import Pace
from agent.image.storage.content import CHUNK
from agent.image.transfer.blobs import BlobTransfer
from agent.oci.digest import digest_of_hex


class BlobDownload(BlobTransfer):
    """Downloads one blob and yields its bytes on the way.

    What arrives is appended to the blob's ingest file, so that a later process resumes it by Range. Whoever
    iterates sees bytes that are not verified yet: they must not be trusted before the iteration has ended.
    """

    def stream(self) -> Generator[bytes, None, None]:
        """The whole blob, from what an earlier try left and the network; then it is in the content store.

        Raises what the registry client raises, DigestMismatch, InsufficientStorage or PullCancelled.
        """
        self._hash = hashlib.sha256()
        path = self._content.ingest_path(self._descriptor.digest)
        try:
            with translated_storage_errors():
                yield from self._receive(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except (InsufficientStorage, DigestMismatch):
            path.unlink(missing_ok=True)
            raise
        self._content.commit(path, self._descriptor.digest)

    def _receive(self, fd: int) -> Iterator[bytes]:
        try:
            yield from self._replay(fd)
            attempt = 0
            while self._offset < self._descriptor.size:
                before = self._offset
                try:
                    yield from self._fetch(fd)
                except Waiting as error:
                    self._meter.check()
                    attempt = 0 if self._offset - before >= self._config.slow_bytes else attempt + 1
                    if attempt >= self._config.attempts or isinstance(error, InsufficientStorage):
                        raise
                    self._client.pause(attempt, error)
            self._verify()
        finally:
            os.close(fd)

    def _replay(self, fd: int) -> Iterator[bytes]:
        if os.fstat(fd).st_size > self._descriptor.size:
            os.ftruncate(fd, 0)
        while chunk := os.read(fd, CHUNK):
            self._hash.update(chunk)
            self._offset += len(chunk)
            self._meter.advance(len(chunk), fetched=False)
            yield chunk

    def _fetch(self, fd: int) -> Iterator[bytes]:
        """One connection's worth of the blob. A mirror that fails on the way is set aside."""
        stream = self._client.open_blob(self._descriptor, self._offset)
        complete = False
        try:
            skip = self._offset - stream.start
            pace = Pace(self._config)
            while self._offset < self._descriptor.size:
                chunk = stream.read(CHUNK)
                if not chunk:
                    raise ImagePullFailed(f"the download of {self._descriptor.digest} ended early")
                pace.count(len(chunk))
                if skip:
                    chunk, skip = chunk[skip:], max(skip - len(chunk), 0)
                chunk = chunk[: self._descriptor.size - self._offset + 1]
                yield self._keep(fd, chunk)
            complete = not stream.read(1)
            if not complete:
                raise DigestMismatch(
                    f"the registry sends more than the {self._descriptor.size} bytes of {self._descriptor.digest}"
                )
        except HoldfastError as error:
            self._client.set_aside(stream.source, error)
            raise
        finally:
            stream.close(complete=complete)

    def _keep(self, fd: int, chunk: bytes) -> bytes:
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]
        self._hash.update(chunk)
        self._offset += len(chunk)
        self._meter.advance(len(chunk))
        return chunk

    def _verify(self) -> None:
        actual = digest_of_hex(self._hash.hexdigest())
        if actual != self._descriptor.digest or self._offset != self._descriptor.size:
            raise DigestMismatch(f"the registry sent {actual} for {self._descriptor.digest}")
