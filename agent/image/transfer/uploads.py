"""One blob from the content store to a registry: skipped, mounted, or uploaded whole or in chunks.

Distribution spec, "Pushing blobs". An upload that breaks is resumed where the registry says it stands, else begun anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import IO
from urllib.parse import quote, urljoin

import urllib3

from agent.errors import HoldfastError, Waiting
from agent.image.errors import DigestMismatch, ImageNotFound, RegistryUnauthorized, UnexpectedAnswer
from agent.image.origin import parse_origin
from agent.image.progress import LayerMeter
from agent.image.registry.session import Request
from agent.image.transfer.blobs import BlobTransfer

MAX_SOURCES = 3
MAX_ANSWER = 64 << 10
SMALL_CHUNK = 8 << 20
"""The chunk size for registries, or proxies before them, that find a whole blob too large (413)."""

_MAX_CHUNK = 1 << 30
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})\Z", re.ASCII)
_KIND = {"Content-Type": "application/octet-stream"}
_TOO_LARGE = 413
_LOST = frozenset({404, 416})


class Outcome(StrEnum):
    """How a blob came to be in the registry."""

    PRESENT = "present"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class BlobUpload(BlobTransfer):
    """Brings one blob to a registry. ``_location`` is where it goes on, when it has begun; ``_chunk`` is how much goes
    at a time, 0 for all."""

    _location = ""
    _chunk = 0

    def run(self, sources: Sequence[str]) -> Outcome:
        """``sources`` are repositories of the same registry that may have the blob.

        Raises what the registry client raises, ImageNotFound when the blob is not local, DigestMismatch when it is
        damaged.
        """
        if self._descriptor.size > self._config.upload_chunk:
            self._chunk = self._config.upload_chunk
        if self._client.retried(lambda: self._client.origin.once(self._exists)):
            self._meter.finish(present=True)
            return Outcome.PRESENT
        if any(self._mounted(source) for source in sources[:MAX_SOURCES]):
            self._meter.finish(present=True)
            return Outcome.MOUNTED
        try:
            file = self._content.path(self._descriptor.digest).open("rb")
        except FileNotFoundError:
            raise ImageNotFound(
                f"the layer {self._descriptor.digest} is not local", hint="pull or build the image again"
            ) from None
        with file:
            self._upload(file)
        self._meter.finish()
        return Outcome.UPLOADED

    def _send(self, request: Request) -> urllib3.BaseHTTPResponse:
        """The answer, of which only the head is of interest."""
        response = self._client.origin.send(request)
        self._client.transport.read(response, MAX_ANSWER)
        return response

    def _exists(self) -> bool:
        path = f"blobs/{self._descriptor.digest}"
        return self._send(Request("HEAD", path, accept=frozenset({200, 404}))).status == 200

    def _mounted(self, source: str) -> bool:
        """Ask for the blob to be taken over from another repository; a refusal is none of our business."""
        path = f"blobs/uploads/?mount={quote(self._descriptor.digest)}&from={quote(source, safe='')}"
        request = Request("POST", path, accept=frozenset({201, 202}), extra_scopes=(f"repository:{source}:pull",))
        try:
            response = self._client.retried(lambda: self._client.origin.once(lambda: self._send(request)))
        except (RegistryUnauthorized, ImageNotFound, UnexpectedAnswer):
            return False
        if response.status == 201:
            return True
        self._drop(self._locate(response, path))
        return False

    def _drop(self, location: str) -> None:
        """End an upload that is not needed. Registries forget it anyway in time."""
        with suppress(HoldfastError):
            self._client.origin.once(lambda: self._send(Request("DELETE", location, accept=frozenset({202, 204}))))

    def _locate(self, response: urllib3.BaseHTTPResponse, asked: str) -> str:
        """Where the upload goes on. Raises Refused for a place that must not be asked."""
        base = f"{self._client.origin.base()}/v2/{self._client.origin.endpoint.repository}/"
        before = urljoin(base, asked)
        location = urljoin(before, response.headers.get("Location") or before)
        self._client.transport.check_hop(parse_origin(base), parse_origin(location))
        return location

    def _upload(self, file: IO[bytes]) -> None:
        attempt, best = 0, 0
        while True:
            try:
                self._client.origin.once(lambda: self._step(file))
                if self._offset == self._descriptor.size and not self._location:
                    return
                attempt, best = (0, self._offset) if self._offset > best else (attempt, best)
            except Waiting as error:
                attempt += 1
                if attempt >= self._config.attempts:
                    raise
                self._client.pause(attempt, error)
                self._find_place()
            except (ImageNotFound, UnexpectedAnswer) as error:
                attempt += 1
                if attempt >= self._config.attempts or not self._adapt(error):
                    self._check_blob()
                    raise

    def _step(self, file: IO[bytes]) -> None:
        """Begin, or send one chunk, or the end."""
        if not self._location:
            self._begin()
        elif self._chunk and self._offset < self._descriptor.size:
            self._send_chunk(file)
        else:
            self._finish(file)

    def _begin(self) -> None:
        path = "blobs/uploads/"
        response = self._send(Request("POST", path, {"Content-Length": "0"}, frozenset({202})))
        self._location, self._offset = self._locate(response, path), 0
        self._meter.restart()
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        if self._chunk and least.isascii() and least.isdigit():
            self._chunk = max(self._chunk, min(int(least[:12]), _MAX_CHUNK))

    def _send_chunk(self, file: IO[bytes]) -> None:
        size = min(self._chunk, self._descriptor.size - self._offset)
        end = self._offset + size
        headers = {**_KIND, "Content-Length": str(size), "Content-Range": f"{self._offset}-{end - 1}"}
        accepted = frozenset({202})
        request = Request(
            "PATCH", self._location, headers, accepted, lambda: _Slice(file, self._offset, size, self._meter)
        )
        response = self._send(request)
        self._location = self._locate(response, self._location)
        stated = _RANGE.match(response.headers.get("Range", ""))
        stored = int(stated[1]) + 1 if stated else end
        if not self._offset < stored <= end:
            raise UnexpectedAnswer("the registry is confused about how much of a chunk it has", 416)
        self._offset = stored
        self._meter.restart(stored)

    def _finish(self, file: IO[bytes]) -> None:
        separator = "&" if "?" in self._location else "?"
        url = f"{self._location}{separator}digest={quote(self._descriptor.digest)}"
        start = self._offset
        size = self._descriptor.size - start
        headers = {**_KIND, "Content-Length": str(size)}
        self._send(Request("PUT", url, headers, frozenset({201, 204}), lambda: _Slice(file, start, size, self._meter)))
        self._location, self._offset = "", self._descriptor.size

    def _find_place(self) -> None:
        """Go on where the registry says a chunked upload stands; begin anew where it does not say."""
        asked, self._location = self._location, ""
        if asked and self._chunk:
            with suppress(HoldfastError):
                self._client.origin.once(lambda: self._ask_place(asked))
        if not self._location:
            self._offset = 0
        self._meter.restart(self._offset)

    def _ask_place(self, asked: str) -> None:
        response = self._send(Request("GET", asked, accept=frozenset({204})))
        stated = _RANGE.match(response.headers.get("Range", ""))
        stored = int(stated[1]) + 1 if stated else 0
        if 1 < stored <= self._descriptor.size:  # "0-0" may mean nothing or one byte
            self._location, self._offset = self._locate(response, asked), stored

    def _adapt(self, error: ImageNotFound | UnexpectedAnswer) -> bool:
        """Try another way after a refusal: whether there is one."""
        status = error.status if isinstance(error, UnexpectedAnswer) else 404
        begun = bool(self._location)
        if status == 416 and begun and self._chunk:
            self._find_place()
            return True
        self._location, self._offset = "", 0
        if status in _LOST:
            return begun
        if status == _TOO_LARGE:
            smaller = min(SMALL_CHUNK, (self._chunk or self._descriptor.size) // 2)
            self._chunk = smaller
            return begun and smaller > 0
        if begun and self._chunk:
            self._chunk = 0
            return True
        return False

    def _check_blob(self) -> None:
        """Whether it is our own copy that is wrong. Raises DigestMismatch."""
        try:
            for _ in self._content.stream(self._descriptor.digest):
                self._meter.check()
        except FileNotFoundError:
            raise DigestMismatch(f"the blob {self._descriptor.digest} was lost meanwhile") from None


class _Slice:
    """A part of a file as the body of a request; counts what is read of it."""

    def __init__(self, file: IO[bytes], start: int, size: int, meter: LayerMeter) -> None:
        self._file = file
        self._left = size
        self._meter = meter
        file.seek(start)
        meter.restart(start)

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes of it. Raises PullCancelled."""
        self._meter.check()
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self._meter.advance(len(data))
        return data
