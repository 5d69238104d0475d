"""A registry's v2 API (OCI distribution spec): manifests and blobs of one image's repository, read.

Mirrors are asked first, and what they send is verified. A mirror that fails rests until the registry itself fails, too;
one that sends something wrong is not asked again in this pull.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar
from urllib.parse import urljoin

import urllib3

from agent.errors import HoldfastError, Refused, Waiting
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch, ImageNotFound, ImagePullFailed, PullCancelled, UnexpectedAnswer
from agent.image.origin import parse_origin
from agent.image.progress import PullTracker
from agent.image.registry.endpoints import compute_endpoints
from agent.image.registry.registryfile import load_registries
from agent.image.registry.session import RegistrySession, Request, Surroundings
from agent.image.registry.transport import Transport
from agent.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, Descriptor
from agent.oci.digest import Digest, compute_digest
from agent.oci.document import MAX_DOCUMENT, InvalidDocument
from agent.oci.manifest import refuse_schema_1
from agent.oci.reference import Reference
from agent.telemetry.logging import get_logger
from agent.values import frozen

ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
PATIENCE = 60.0
"""Seconds that a registry may ask us to wait; when it wants more, the caller is told to come again later."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)\Z", re.ASCII)
_RANGED = frozenset({200, 206, 416})
_NEXT = re.compile(r"\s*<([^<>\s]+)>\s*;\s*rel=\"?next\"?\s*\Z", re.ASCII)
MAX_PAGES = 8
"""How many lists of referrers are read of one image."""
MAX_TAG_PAGES = 100
TAGS_A_PAGE = 1000
T = TypeVar("T")


@frozen
class BlobStream:
    """A download under way; ``start`` is the offset in the blob of its first byte."""

    response: urllib3.BaseHTTPResponse
    start: int
    source: RegistrySession
    transport: Transport

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes as they come; none at the end. Raises RegistryUnreachable, PullCancelled."""
        return self.source.once(lambda: self.response.read1(size))

    def close(self, *, complete: bool) -> None:
        """End it; the connection is used again when the answer was read to its end."""
        self.transport.release(self.response, reuse=complete)


class RegistryClient:
    """One repository of one registry, for the length of one pull or push. Thread-safe."""

    def __init__(
        self, reference: Reference, config: RegistryConfig, tracker: PullTracker, actions: str = "pull"
    ) -> None:
        """Raises Stalled when the registries file cannot be used."""
        registries = self._registries = load_registries(config.registries)
        self._reference = reference
        self._config = config
        self._tracker = tracker
        self.transport = Transport(config, registries)
        around = Surroundings(config, registries, self.transport, tracker, reference, actions)
        self._sessions = [RegistrySession(endpoint, around) for endpoint in compute_endpoints(reference, registries)]
        self._lock = threading.Lock()
        self._resting: set[RegistrySession] = set()
        self._wrong: set[RegistrySession] = set()
        self._served: dict[Digest, set[RegistrySession]] = {}

    @property
    def origin(self) -> RegistrySession:
        """The registry itself."""
        return self._sessions[-1]

    def name_at_origin(self, reference: Reference) -> str:
        """What the registry itself calls a repository of its own: as the registries file rewrites it."""
        return compute_endpoints(reference, self._registries)[-1].repository

    def fetch_manifest(self, expected: Descriptor | None = None) -> tuple[bytes, str, Digest]:
        """The bytes, media type and digest of what the reference names, or of ``expected`` when given.

        Raises ImageNotFound, RegistryUnauthorized, RegistryUnreachable, ImagePullFailed or Refused.
        """
        digest = expected.digest if expected else self._reference.digest
        return self.retried(lambda: self._first(digest, lambda source: self._fetch_manifest(source, digest, expected)))

    def _fetch_manifest(
        self, source: RegistrySession, wanted: Digest | None, expected: Descriptor | None
    ) -> tuple[bytes, str, Digest]:
        target = wanted or self._reference.target
        response = source.send(Request("GET", f"manifests/{target}", {"Accept": ACCEPT}))
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        stated = response.headers.get("Docker-Content-Digest")
        data = self.transport.read(response, MAX_DOCUMENT)
        refuse_schema_1(kind)
        digest = compute_digest(data)
        if (wanted or stated or digest) != digest:
            raise DigestMismatch(f"the manifest {target} has the digest {digest}")
        if expected and (kind, len(data)) != (expected.media_type, expected.size):
            raise InvalidDocument(f"the manifest {digest} is not what its index says")
        return data, kind, digest

    def fetch_referrers(self, digest: Digest) -> Iterator[tuple[bytes, str]]:
        """The lists of what refers to a manifest, each with its media type: by the API or, where there is none, under
        its tag (distribution spec, "Listing referrers" and "Referrers tag schema").

        Raises as ``fetch_manifest`` does, ImageNotFound when there are none.
        """
        try:
            first = self._fetch_page(f"referrers/{digest}")
        except (ImageNotFound, UnexpectedAnswer):
            first = self._fetch_page(f"manifests/{digest.replace(':', '-')}")
        yield from self._follow(first, MAX_PAGES, f"what refers to {digest}")

    def fetch_tags(self) -> Iterator[bytes]:
        """The lists of the repository's tags (distribution spec, "Listing Tags").

        Raises as ``fetch_manifest`` does, ImageNotFound when there is no such repository.
        """
        first = self._fetch_page(f"tags/list?n={TAGS_A_PAGE}")
        for data, _ in self._follow(first, MAX_TAG_PAGES, "tags"):
            yield data

    def _follow(self, page: tuple[bytes, str, str], most: int, what: str) -> Iterator[tuple[bytes, str]]:
        """A list and those that come after it, ``most`` in all."""
        data, kind, link = page
        yield data, kind
        for _ in range(most - 1):
            if not link:
                return
            data, kind, link = self._fetch_page(link)
            yield data, kind
        if link:
            raise InvalidDocument(f"more than {most} lists of {what}")

    def _fetch_page(self, path: str) -> tuple[bytes, str, str]:
        """A list, its media type, and where the next one is."""
        return self.retried(lambda: self._first(None, lambda source: self._fetch_list(path, source)))

    def _fetch_list(self, path: str, source: RegistrySession) -> tuple[bytes, str, str]:
        response = source.send(Request("GET", path, {"Accept": f"{OCI_INDEX}, application/json"}))
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        link = _NEXT.match(response.headers.get("Link", "")[:2048])
        data = self.transport.read(response, MAX_DOCUMENT)
        if link is None:
            return data, kind, ""
        base = source.base()
        found = urljoin(f"{base}/v2/{source.endpoint.repository}/{path}", link[1])
        if parse_origin(found) != parse_origin(base):
            raise InvalidDocument("a list of the registry goes on at another host")
        return data, kind, found

    def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """A small blob (an image config) whole and verified. Raises as ``fetch_manifest`` does."""
        if descriptor.size > MAX_DOCUMENT:
            raise InvalidDocument(f"the config has {descriptor.size} bytes; at most {MAX_DOCUMENT} are accepted")
        return self.retried(lambda: self._first(descriptor.digest, lambda source: self._fetch_blob(source, descriptor)))

    def _fetch_blob(self, source: RegistrySession, descriptor: Descriptor) -> bytes:
        response = source.send(Request("GET", f"blobs/{descriptor.digest}"))
        data = self.transport.read(response, descriptor.size)
        if compute_digest(data) != descriptor.digest:
            raise DigestMismatch(f"the blob {descriptor.digest} has other content")
        return data

    def open_blob(self, descriptor: Descriptor, offset: int) -> BlobStream:
        """Start downloading a blob at ``offset`` or, where the registry cannot do that, before it.

        One try at each endpoint. The caller reads and closes. Raises as ``fetch_manifest`` does.
        """
        return self._first(descriptor.digest, lambda source: self._open_blob(source, descriptor, offset))

    def _open_blob(self, source: RegistrySession, descriptor: Descriptor, offset: int) -> BlobStream:
        path = f"blobs/{descriptor.digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = source.send(Request("GET", path, headers, _RANGED))
        if response.status == 416:
            self.transport.release(response, reuse=False)
            response = source.send(Request("GET", path))
        start = 0
        try:
            if response.status == 206:
                start = self._begin_of(response, offset)
            self._check_length(response, descriptor, start)
        except HoldfastError:
            self.transport.release(response, reuse=False)
            raise
        with self._lock:
            self._served.setdefault(descriptor.digest, set()).add(source)
        return BlobStream(response, start, source, self.transport)

    def _begin_of(self, response: urllib3.BaseHTTPResponse, offset: int) -> int:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) > offset:
            raise ImagePullFailed(f"{self._reference.registry} answers with a wrong range")
        return int(match[1])

    def _check_length(self, response: urllib3.BaseHTTPResponse, descriptor: Descriptor, start: int) -> None:
        stated = response.headers.get("Content-Length", "")
        if stated.isascii() and stated.isdigit() and start + int(stated[:20]) != descriptor.size:
            raise DigestMismatch(
                f"the registry has {start + int(stated[:20])} bytes for {descriptor.digest}, "
                f"its manifest says {descriptor.size}"
            )

    def _first(self, digest: Digest | None, call: Callable[[RegistrySession], T]) -> T:
        """The answer of the first endpoint that has one. Mirrors without ``tags`` are asked for digests only."""
        for source in self._sessions[:-1]:
            if source in self._resting or source in self._wrong or not (digest or source.endpoint.tags):
                continue
            try:
                return source.once(partial(call, source))
            except PullCancelled:
                raise
            except ImageNotFound:
                continue
            except HoldfastError as error:
                self.set_aside(source, error)
        try:
            return self.origin.once(partial(call, self.origin))
        except Waiting:
            self._resting.clear()
            raise

    def set_aside(self, source: RegistrySession, error: HoldfastError) -> None:
        """Do not ask a mirror that failed before the registry fails, too; never again if what it sent was wrong."""
        if not source.endpoint.mirror or isinstance(error, PullCancelled):
            return
        with self._lock:
            (self._wrong if isinstance(error, Refused) else self._resting).add(source)
        get_logger("image").warning(
            "a mirror fails, the next one or the registry itself is asked",
            mirror=source.endpoint.url,
            image=self._reference.familiar(),
            error=error.message,
        )

    def distrust(self, digest: Digest) -> bool:
        """What came for ``digest`` was wrong: set aside the mirrors that sent of it; whether there were any."""
        with self._lock:
            guilty = {source for source in self._served.get(digest, ()) if source.endpoint.mirror} - self._wrong
        for source in guilty:
            self.set_aside(source, DigestMismatch(f"it sent something else for {digest}"))
        return bool(guilty)

    def retried(self, call: Callable[[], T]) -> T:
        """Call until it works: passing faults up to ``attempts`` times, with growing, jittered pauses."""
        for attempt in range(self._config.attempts):
            try:
                return call()
            except Waiting as error:
                self._tracker.check()
                if attempt + 1 == self._config.attempts:
                    raise
                self.pause(attempt, error)
        raise ImagePullFailed(f"{self._reference.registry} was never tried")

    def pause(self, attempt: int, error: Waiting) -> None:
        """Wait before the next try, at least as long as the registry asked for.

        Raises ``error`` when that is over a minute, PullCancelled.
        """
        asked = getattr(error, "asked", 0.0)
        if asked > PATIENCE:
            raise error
        limit = min(self._config.backoff * 2**attempt, self._config.backoff_limit)
        self._tracker.pause(max(asked, limit * random.uniform(0.5, 1.0)))
