"""Signs images in a real registry exactly as ``cosign sign --key`` does, in its tag scheme."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import urllib3
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519

from tests.host.registry import digest_of

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Signer:
    """One key pair: ``ecdsa``, ``rsa`` or ``ed25519``; ``weak`` and ``x25519`` are not accepted."""

    def __init__(self, kind: str = "ecdsa") -> None:
        make: dict[str, Any] = {
            "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate,
            "rsa": lambda: rsa.generate_private_key(65537, 2048),
            "x25519": x25519.X25519PrivateKey.generate,
            "weak": lambda: rsa.generate_private_key(65537, 1024),
        }
        self.kind = kind
        self.key = make[kind]()

    def write_public(self, path: Path) -> Path:
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        path.write_bytes(self.key.public_key().public_bytes(*form))
        return path

    def sign(self, payload: bytes) -> bytes:
        if self.kind == "ecdsa":
            made: bytes = self.key.sign(payload, ec.ECDSA(hashes.SHA256()))
        elif self.kind == "ed25519":
            made = self.key.sign(payload)
        else:
            made = self.key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
        return made


def make_payload(identity: str, digest: str, kind: str = "cosign container image signature") -> bytes:
    """The signed document, with the keys in cosign's order."""
    critical = {"identity": {"docker-reference": identity}, "image": {"docker-manifest-digest": digest}, "type": kind}
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


class SignatureShelf:
    """Puts signatures beside the images of one repository (``registry/name``)."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self._registry, _, self._name = repository.partition("/")
        self._http = urllib3.PoolManager()

    def _url(self, rest: str) -> str:
        return f"http://{self._registry}/v2/{self._name}/{rest}"

    def _blob(self, data: bytes) -> dict[str, Any]:
        start = self._http.request("POST", self._url("blobs/uploads/"))
        place = start.headers["Location"]
        mark = "&" if "?" in place else "?"
        put = self._http.request("PUT", f"{place}{mark}digest={digest_of(data)}", body=data)
        assert put.status == 201, put.data
        return {"digest": digest_of(data), "size": len(data)}

    def put(self, digest: str, *signed: tuple[bytes, bytes], size: int | None = None) -> None:
        """Replace the signatures of ``digest`` by these payloads and signatures; ``size`` lies about the payloads'."""
        layers = []
        blobs = {payload: self._blob(payload) for payload, _ in signed}
        for payload, signature in signed:
            layer = {"mediaType": PAYLOAD, **blobs[payload]} | ({"size": size} if size is not None else {})
            text = base64.b64encode(signature).decode()
            layers.append({**layer, "annotations": {"dev.cosignproject.cosign/signature": text}})
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", **self._blob(b"{}")}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        self.put_manifest(digest, json.dumps(document).encode())

    def put_manifest(self, digest: str, data: bytes) -> None:
        url = self._url(f"manifests/{digest.replace(':', '-')}.sig")
        put = self._http.request("PUT", url, body=data, headers={"Content-Type": MANIFEST})
        assert put.status == 201, put.data

    def sign(self, digest: str, *signers: Signer, identity: str = "") -> None:
        """As ``cosign sign`` does with each key in turn."""
        payload = make_payload(identity or self.repository, digest)
        self.put(digest, *((payload, signer.sign(payload)) for signer in signers))

    def digest(self, tag: str) -> str:
        """The digest of what a tag names."""
        kinds = f"{MANIFEST}, application/vnd.oci.image.index.v1+json"
        head = self._http.request("HEAD", self._url(f"manifests/{tag}"), headers={"Accept": kinds})
        return str(head.headers["Docker-Content-Digest"])

    def close(self) -> None:
        self._http.clear()
