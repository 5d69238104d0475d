"""Signatures as cosign makes them with a key: where they are, what they say, and whether a key made them.

Source: cosign's specs/SIGNATURE_SPEC.md: an OCI manifest under the tag ``sha256-<hex>.sig`` beside the image, one layer
a signature, whose bytes are the signed payload (Red Hat's "simple signing") and whose annotation is the signature.
skopeo makes the same, and names the tag too. Other than cosign, which ignores it, the payload's identity has to name
the image's repository.

Keys: ECDSA on P-256, P-384 or P-521 with SHA-256 (or the hash of the curve's size), RSA (PKCS #1 v1.5,
2048 bits or more) with SHA-256, Ed25519.
`cryptography` is imported when the first key is loaded, never before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import field

from agent.errors import Refused
from agent.image.errors import InvalidSignature
from agent.oci.descriptor import OCI_MANIFEST, Descriptor, decode_descriptor
from agent.oci.digest import Digest, hex_of, render_shortened
from agent.oci.document import InvalidDocument, decode_document, take_object, take_objects, take_text
from agent.oci.reference import InvalidReference, Reference, parse_reference
from agent.values import frozen

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"
MAX_PAYLOAD = 64 << 10
MAX_SIGNATURE = 4096
MAX_SIGNATURES = 64
MIN_RSA_BITS = 2048
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})


@frozen
class PublicKey:
    """A key that signatures are checked with. ``fingerprint`` is the SHA-256 of its DER form in hex."""

    name: str
    fingerprint: str
    verify: Callable[[bytes, bytes], bool] = field(repr=False, compare=False)
    """Whether this key made the signature (first) of the payload (second)."""


@frozen
class StoredSignature:
    """One signature of a signature manifest, and where the payload is that it signs."""

    payload: Descriptor
    signature: bytes


def render_signature_tag(digest: Digest) -> str:
    """The tag under which the signatures of ``digest`` are."""
    return f"sha256-{hex_of(digest)}.sig"


def load_public_key(name: str, pem: bytes) -> PublicKey:
    """The key in ``pem`` (PUBLIC KEY). ``name`` is for messages. Raises Refused for what is no key of a known kind."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(f"{name} is not a public key in PEM form", reason="InvalidKey") from error
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(name, hashlib.sha256(der).hexdigest(), _make_verifier(name, key))


def _make_verifier(name: str, key: object) -> Callable[[bytes, bytes], bool]:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    def check(signature: bytes, payload: bytes) -> None:
        if isinstance(key, ec.EllipticCurvePublicKey):
            check_ecdsa(key, signature, payload)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, payload)

    def check_ecdsa(key: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes) -> None:
        try:
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        except exceptions.InvalidSignature:
            if key.key_size <= 256:
                raise
            key.verify(signature, payload, ec.ECDSA(hashes.SHA384() if key.key_size == 384 else hashes.SHA512()))

    def verify(signature: bytes, payload: bytes) -> bool:
        try:
            check(signature, payload)
        except (exceptions.InvalidSignature, ValueError):
            return False
        return True

    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return verify
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return verify
    if isinstance(key, ed25519.Ed25519PublicKey):
        return verify
    raise Refused(
        f"{name} is a key of a kind that is not accepted",
        reason="InvalidKey",
        hint=f"ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of at least {MIN_RSA_BITS} bits",
    )


def decode_signatures(data: bytes, kind: str) -> tuple[StoredSignature, ...]:
    """What a signature manifest holds; other layers are passed over. Raises InvalidDocument, Refused."""
    document = decode_document(data, "the signature manifest")
    if kind != OCI_MANIFEST or document.get("mediaType", kind) != kind or document.get("schemaVersion") != 2:
        raise InvalidDocument(f"the signatures come as {render_shortened(kind)}, not as an OCI manifest")
    found = []
    for layer in take_objects(document, "layers", MAX_SIGNATURES):
        descriptor = decode_descriptor(layer)
        text = descriptor.annotations.get(ANNOTATION, "")
        if descriptor.media_type == PAYLOAD and text:
            found.append(StoredSignature(descriptor, _decode_base64(text)))
    return tuple(found)


def _decode_base64(text: str) -> bytes:
    if len(text) > MAX_SIGNATURE:
        raise InvalidDocument(f"a signature is longer than {MAX_SIGNATURE} characters")
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidDocument("a signature is not base64") from error


def check_payload(payload: bytes, digest: Digest, expected: Reference) -> None:
    """Check what a key has signed: that it is about ``digest`` as an image of ``expected``'s repository, and of its
    tag where both name one. Raises InvalidSignature."""
    try:
        critical = take_object(decode_document(payload, "the signed payload"), "critical")
        kind = take_text(critical, "type")
        signed = take_text(take_object(critical, "image"), "docker-manifest-digest")
        identity = take_text(take_object(critical, "identity"), "docker-reference")
        named = parse_reference(identity)
    except (InvalidDocument, InvalidReference) as error:
        raise InvalidSignature(f"a signature's payload is malformed: {error.message}") from error
    if kind != TYPE:
        raise InvalidSignature(f"a signature is of the type {render_shortened(kind)}, not {TYPE!r}")
    if signed != digest:
        raise InvalidSignature(f"a signature is of {render_shortened(signed)}, not of {digest}")
    if (named.registry, named.repository) != (expected.registry, expected.repository):
        raise InvalidSignature(f"a signature is of an image of {named.registry}/{named.repository}")
    tagged = ":" in identity.partition("@")[0].rpartition("/")[2]
    if tagged and expected.digest is None and expected.tag != named.tag:
        raise InvalidSignature(f"a signature is of the tag {named.tag}")
