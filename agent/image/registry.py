"""A registry's v2 API (OCI distribution spec): manifests and blobs of one image's repository."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import urllib3

from agent.errors import HoldfastError, Refused, Waiting
from agent.image.auth import Authorizer
from agent.image.config import RegistryConfig
from agent.image.credentials import find_credentials
from agent.image.errors import DigestMismatch, ImageNotFound, ImagePullFailed, RegistryUnauthorized
from agent.image.failures import translate_failure
from agent.image.progress import PullTracker
from agent.image.transport import Origin, Transport, parse_origin
from agent.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from agent.oci.digest import Digest, compute_digest
from agent.oci.document import MAX_DOCUMENT, InvalidDocument
from agent.oci.reference import DEFAULT_REGISTRY, Reference

ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
DOCKER_HUB = "registry-1.docker.io"
MAX_RETRY_AFTER = 60.0
MISSING_HINT = "check its name and tag; a private image may need credentials in ~/.docker/config.json"
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)\Z", re.ASCII)
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")


class RegistryClient:
    """One repository of one registry, for the length of one pull. Thread-safe."""

    def __init__(self, reference: Reference, config: RegistryConfig, tracker: PullTracker) -> None:
        self._reference = reference
        self._config = config
        self._tracker = tracker
        self.transport = Transport(config)
        self._authorizer = Authorizer(
            self.transport, lambda: find_credentials(config.docker_config, reference.registry)
        )
        self._origin: Origin | None = None

    def fetch_manifest(self, expected: Descriptor | None = None) -> tuple[bytes, str, Digest]:
        """The bytes, media type and digest of what the reference names, or of ``expected`` when given.

        Raises ImageNotFound, RegistryUnauthorized, RegistryUnreachable, ImagePullFailed or Refused.
        """
        target = expected.digest if expected else self._reference.target
        return self.retried(lambda: self._fetch_manifest(target, expected))

    def _fetch_manifest(self, target: str, expected: Descriptor | None) -> tuple[bytes, str, Digest]:
        response = self._get(f"manifests/{target}", {"Accept": ACCEPT})
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        stated = response.headers.get("Docker-Content-Digest")
        data = self.transport.read(response, MAX_DOCUMENT)
        digest = compute_digest(data)
        wanted = expected.digest if expected else self._reference.digest
        if (wanted or stated or digest) != digest:
            raise DigestMismatch(f"the manifest {target} has the digest {digest}")
        if expected and (kind, len(data)) != (expected.media_type, expected.size):
            raise InvalidDocument(f"the manifest {digest} is not what its index says")
        return data, kind, digest

    def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """A small blob (an image config) whole and verified. Raises as ``fetch_manifest`` does."""
        if descriptor.size > MAX_DOCUMENT:
            raise InvalidDocument(f"the config has {descriptor.size} bytes; at most {MAX_DOCUMENT} are accepted")
        return self.retried(lambda: self._fetch_blob(descriptor))

    def _fetch_blob(self, descriptor: Descriptor) -> bytes:
        data = self.transport.read(self._get(f"blobs/{descriptor.digest}", {}), descriptor.size)
        if compute_digest(data) != descriptor.digest:
            raise DigestMismatch(f"the blob {descriptor.digest} has other content")
        return data

    def open_blob(self, digest: Digest, offset: int) -> tuple[urllib3.BaseHTTPResponse, int]:
        """Start downloading a blob from ``offset``; returns the response and the offset it really starts at.

        One try. The caller reads, and releases through ``transport``.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._get(f"blobs/{digest}", headers)
        if response.status != 206:
            return response, 0
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) > offset:
            self.transport.release(response, reuse=False)
            raise ImagePullFailed(f"{self._reference.registry} answers with a wrong range")
        return response, int(match[1])

    def retried(self, call: Callable[[], T]) -> T:
        """Call until it works: passing faults up to ``attempts`` times, with growing, jittered pauses."""
        for attempt in range(self._config.attempts):
            try:
                return self.once(call)
            except Waiting as error:
                self._tracker.check()
                if attempt + 1 == self._config.attempts:
                    raise
                self.pause(attempt, error)
        raise ImagePullFailed(f"{self._reference.registry} was never tried")

    def pause(self, attempt: int, error: Waiting) -> None:
        """Wait before the next try, at least as long as the registry asked for. Raises PullCancelled."""
        limit = min(self._config.backoff * 2**attempt, self._config.backoff_limit)
        asked = getattr(error, "asked", 0.0)
        self._tracker.pause(max(asked, limit * random.uniform(0.5, 1.0)))

    def once(self, call: Callable[[], T]) -> T:
        """Call, turning failures of the connection into typed errors. Raises PullCancelled first of all."""
        self._tracker.check()
        try:
            return call()
        except urllib3.exceptions.HTTPError as error:
            self._tracker.check()
            self._origin = None
            raise translate_failure(error, self._reference.registry) from error

    def _get(self, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        origin = self._origin or self._find_origin()
        repository = self._reference.repository
        url = f"{origin}/v2/{repository}/{path}"
        response = self.transport.get(url, headers, self._authorizer.current(repository))
        if response.status == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            self.transport.release(response, reuse=False)
            header = self._authorizer.answer(challenge, origin, repository)
            response = self.transport.get(url, headers, header)
        if response.status in (200, 206):
            return response
        self.transport.release(response, reuse=False)
        raise self._error_of(response, path)

    def _find_origin(self) -> Origin:
        registry = self._reference.registry
        secure = parse_origin(f"https://{DOCKER_HUB if registry == DEFAULT_REGISTRY else registry}")
        if self.transport.may_be_plain(secure):
            self._origin = self._probe(secure, parse_origin(f"http://{registry}"))
        else:
            self._origin = secure
        return self._origin

    def _probe(self, secure: Origin, plain: Origin) -> Origin:
        """Encrypted when the registry can; a plain one answers a TLS hello with something that is not TLS."""
        try:
            self.transport.release(self.transport.request("GET", f"{secure}/v2/", {}), reuse=False)
        except urllib3.exceptions.SSLError as error:
            if "CERTIFICATE" in str(error).upper():
                raise
            return plain
        except urllib3.exceptions.ProtocolError:
            return plain
        return secure

    def _error_of(self, response: urllib3.BaseHTTPResponse, path: str) -> HoldfastError:
        status, registry = response.status, self._reference.registry
        if status in (401, 403):
            return RegistryUnauthorized(
                f"{registry} refuses access to {self._reference.repository} (HTTP {status})",
                hint=f"check the credentials for {registry} in ~/.docker/config.json",
            )
        if status == 404:
            manifest, name = path.startswith("manifests"), self._reference.familiar()
            what = "the image" if manifest else f"{path} of"
            return ImageNotFound(f"{registry} does not have {what} {name}", hint=MISSING_HINT if manifest else None)
        if status in _TRANSIENT:
            error = ImagePullFailed(f"{registry} answers HTTP {status}")
            error.asked = _retry_after(response.headers.get("Retry-After", ""))
            return error
        return Refused(f"{registry} answers HTTP {status} to {path}", reason="ImagePullFailed")


def _retry_after(header: str) -> float:
    return min(float(header), MAX_RETRY_AFTER) if header.isascii() and header.isdigit() else 0.0
