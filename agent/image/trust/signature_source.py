"""Where signatures come from: the registry of the image, read before anything of the image but its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from agent.image.config import RegistryConfig
from agent.image.errors import ImageNotFound, InvalidSignature
from agent.image.progress import PullTracker
from agent.image.registry.opening import open_registry
from agent.image.trust.bundle import check_statement, decode_artifact, decode_bundle, decode_referrers
from agent.image.trust.signature import (
    MAX_PAYLOAD,
    MAX_SIGNATURES,
    PublicKey,
    StoredSignature,
    check_payload,
    decode_signatures,
    render_signature_tag,
)
from agent.oci.descriptor import Descriptor
from agent.oci.digest import Digest
from agent.oci.document import InvalidDocument
from agent.oci.reference import Reference

if TYPE_CHECKING:
    from agent.image.registry.client import RegistryClient


class SignatureSource:
    """The signatures beside the images of one repository."""

    def __init__(self, reference: Reference, config: RegistryConfig, tracker: PullTracker) -> None:
        self._reference = reference
        self._config = config
        self._tracker = tracker

    def find_signers(
        self, digest: Digest, keys: tuple[PublicKey, ...], expected: Reference, faults: list[str]
    ) -> frozenset[str]:
        """The fingerprints of those ``keys`` that have signed ``digest`` as an image of ``expected``.

        Why a signature does not count is appended to ``faults``. Raises what a pull raises when the registry cannot be
        asked, and Refused for a signature manifest that is malformed.
        """
        found: set[str] = set()
        beside = Reference(self._reference.registry, self._reference.repository, render_signature_tag(digest))
        client = open_registry(beside, self._config, self._tracker)
        with closing(client.transport):
            for stored in self._stored(client):
                try:
                    found.update(_check(client, stored, digest, keys, expected))
                except InvalidSignature as error:
                    faults.append(error.message)
        return frozenset(found)

    def find_bundlers(self, digest: Digest, keys: tuple[PublicKey, ...], faults: list[str]) -> frozenset[str]:
        """The fingerprints of those ``keys`` that have signed ``digest`` in a bundle that refers to it.

        Other than ``find_signers`` that says nothing of the image's repository. Raises as that does.
        """
        found: set[str] = set()
        client = open_registry(self._reference.with_digest(digest), self._config, self._tracker)
        with closing(client.transport):
            for position, descriptor in enumerate(self._referrers(client, digest)):
                if position == MAX_SIGNATURES:
                    raise InvalidDocument(f"more than {MAX_SIGNATURES} bundles refer to {digest}")
                try:
                    found.update(_check_bundle(client, descriptor, digest, keys))
                except (InvalidSignature, InvalidDocument) as error:
                    faults.append(error.message)
        return frozenset(found)

    def _referrers(self, client: RegistryClient, digest: Digest) -> Iterator[Descriptor]:
        try:
            for data, kind in client.fetch_referrers(digest):
                yield from decode_referrers(data, kind)
        except ImageNotFound:
            return

    def _stored(self, client: RegistryClient) -> Iterator[StoredSignature]:
        try:
            data, kind, _ = client.fetch_manifest()
        except ImageNotFound:
            return
        yield from decode_signatures(data, kind)


def _check(
    client: RegistryClient, stored: StoredSignature, digest: Digest, keys: tuple[PublicKey, ...], expected: Reference
) -> Iterator[str]:
    """The fingerprints of the keys that made a signature; the payload is looked into only when there is one."""
    if stored.payload.size > MAX_PAYLOAD:
        raise InvalidSignature(f"a signature's payload has {stored.payload.size} bytes, at most {MAX_PAYLOAD} are read")
    payload = client.fetch_blob(stored.payload)
    makers = {key.fingerprint for key in keys if key.verify(stored.signature, payload)}
    if not makers:
        raise InvalidSignature("a signature was made by another key, or of something else")
    check_payload(payload, digest, expected)
    yield from makers


def _check_bundle(
    client: RegistryClient, artifact: Descriptor, digest: Digest, keys: tuple[PublicKey, ...]
) -> Iterator[str]:
    descriptor = decode_artifact(client.fetch_manifest(artifact)[0])
    if descriptor is None:
        return
    envelope = decode_bundle(client.fetch_blob(descriptor))
    makers = {key.fingerprint for key in keys for made in envelope.signatures if key.verify(made, envelope.signed)}
    if not makers:
        raise InvalidSignature("a signature in a bundle was made by another key, or of something else")
    check_statement(envelope.statement, digest)
    yield from makers
