"""Signatures as cosign 3 makes them with a key: Sigstore bundles that refer to the image (OCI 1.1 referrers).

Source: cosign's specs/BUNDLE_SPEC.md: an artifact manifest whose one layer is a bundle; in it a DSSE envelope around an
in-toto statement of the type that ``cosign sign`` writes. A statement names the image's digest and no repository.
Attestations are bundles too, by the same keys perhaps, and are no signatures. What a transparency log says of one is
not looked at, as for any signature made with a key.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from agent.image.errors import InvalidSignature
from agent.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, decode_descriptor
from agent.oci.digest import Digest, hex_of, render_shortened
from agent.oci.document import InvalidDocument, decode_document, take_object, take_objects, take_text
from agent.values import frozen

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
PREDICATE = "https://sigstore.dev/cosign/sign/v1"
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"
MAX_BUNDLE = 1 << 20
MAX_REFERRERS = 256
_PAYLOAD = "application/vnd.in-toto+json"
_UNKNOWN_KINDS = ("", BUNDLE, "application/vnd.oci.empty.v1+json")
"""What a list of referrers may call a bundle: some registries take the config's type for the artifact's."""


@frozen
class Envelope:
    """What a bundle says, and the ``signatures`` of ``signed``, which is what the keys are to have signed."""

    statement: bytes
    signed: bytes
    signatures: tuple[bytes, ...]


def decode_referrers(data: bytes, kind: str) -> tuple[Descriptor, ...]:
    """The manifests in a list of referrers that may hold a signature. Raises InvalidDocument, Refused."""
    document = decode_document(data, "the list of referrers")
    if kind != OCI_INDEX or document.get("mediaType", kind) != kind or document.get("schemaVersion") != 2:
        raise InvalidDocument(f"the referrers come as {render_shortened(kind)}, not as an OCI index")
    found = []
    for entry in take_objects(document, "manifests", MAX_REFERRERS):
        descriptor = decode_descriptor(entry)
        said = descriptor.annotations.get(PREDICATE_ANNOTATION, PREDICATE)
        if descriptor.media_type == OCI_MANIFEST and take_text(entry, "artifactType") in _UNKNOWN_KINDS:
            found += [descriptor] if said == PREDICATE else []
    return tuple(found)


def decode_artifact(data: bytes) -> Descriptor | None:
    """The bundle that an artifact's manifest names; None when it is of something else. Raises InvalidDocument."""
    document = decode_document(data, "a referrer's manifest")
    layers = take_objects(document, "layers", 1)
    descriptor = decode_descriptor(layers[0]) if layers else None
    if descriptor is None or descriptor.media_type != BUNDLE:
        return None
    if descriptor.size > MAX_BUNDLE:
        raise InvalidDocument(f"a bundle has {descriptor.size} bytes, at most {MAX_BUNDLE} are read")
    return descriptor


def decode_bundle(data: bytes) -> Envelope:
    """The envelope in a bundle. Raises InvalidDocument."""
    document = decode_document(data, "a signature's bundle")
    envelope = take_object(document, "dsseEnvelope")
    kind, statement = take_text(envelope, "payloadType"), _decode_base64(take_text(envelope, "payload"))
    if take_text(document, "mediaType") != BUNDLE or kind != _PAYLOAD:
        raise InvalidDocument("a signature's bundle holds no in-toto statement in the form that cosign signs")
    signatures = tuple(_decode_base64(take_text(made, "sig")) for made in take_objects(envelope, "signatures", 16))
    return Envelope(statement, _encode_signed(kind, statement), signatures)


def _encode_signed(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (secure-systems-lab/dsse, protocol.md)."""
    return b" ".join((b"DSSEv1", b"%d" % len(kind), kind.encode(), b"%d" % len(payload), payload))


def check_statement(statement: bytes, digest: Digest) -> None:
    """Check that what a key has signed is a signature of ``digest``. Raises InvalidSignature."""
    try:
        document = decode_document(statement, "the signed statement")
        kind, predicate = take_text(document, "_type"), take_text(document, "predicateType")
        signed = {_digest_of(subject) for subject in take_objects(document, "subject", 64)}
    except InvalidDocument as error:
        raise InvalidSignature(f"a signature's statement is malformed: {error.message}") from error
    if kind not in STATEMENTS or predicate != PREDICATE:
        raise InvalidSignature(f"a bundle holds {render_shortened(predicate)}, which is no signature of an image")
    if hex_of(digest) not in signed:
        raise InvalidSignature(f"a signature is of another image, not of {digest}")


def _digest_of(subject: dict[str, Any]) -> str:
    return take_text(take_object(subject, "digest"), "sha256")


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidDocument("a signature's bundle holds what is not base64") from error
