"""Signs images in a real registry as cosign 3 does by default: bundles that refer to the image."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.host.fronts import Front
from tests.host.registry import digest_of
from tests.host.signing import MANIFEST, SignatureShelf, Signer
from tests.unit.image.stub_registry import Answer

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
IN_TOTO = "application/vnd.in-toto+json"


def make_statement(digest: str, predicate: str = SIGNATURE, kind: str = "https://in-toto.io/Statement/v1") -> bytes:
    """What ``cosign sign`` signs of an image."""
    subject = [{"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": {}}]
    return json.dumps({"_type": kind, "subject": subject, "predicateType": predicate, "predicate": {}}).encode()


def make_bundle(signer: Signer, statement: bytes, shown: bytes | None = None, **other: Any) -> bytes:
    """A bundle in which a statement is signed; ``shown`` is what it holds instead of it."""
    signed = b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(statement), statement)
    envelope = {
        "payload": base64.b64encode(shown or statement).decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": base64.b64encode(signer.sign(signed)).decode()}],
    }
    material = {"publicKey": {"hint": "hint"}, "tlogEntries": []}
    return json.dumps(
        {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope, **other}
    ).encode()


class BundleShelf(SignatureShelf):
    """Puts bundles beside the images of one repository, listed under the tag that stands in for the referrers API."""

    def add(self, digest: str, data: bytes, kind: str = BUNDLE) -> dict[str, Any]:
        """Store a bundle; what a list of referrers says of it."""
        config = {"mediaType": "application/vnd.oci.empty.v1+json", **self._blob(b"{}")}
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": config,
            "layers": [{"mediaType": kind, **self._blob(data)}],
            "subject": {"mediaType": MANIFEST, "digest": digest, "size": 1},
        }
        manifest = json.dumps(document).encode()
        self._put(digest_of(manifest), manifest, MANIFEST)
        return {"mediaType": MANIFEST, "digest": digest_of(manifest), "size": len(manifest), "artifactType": kind}

    def list(self, digest: str, *entries: dict[str, Any]) -> None:
        """Replace the list of referrers."""
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}
        self._put(digest.replace(":", "-"), json.dumps(document).encode(), INDEX)

    def put_list(self, digest: str, config: bytes) -> None:
        """Put an image's manifest where the list of referrers is looked for."""
        described = {"mediaType": "application/vnd.oci.image.config.v1+json", **self._blob(config)}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": []}
        self._put(digest.replace(":", "-"), json.dumps(document).encode(), MANIFEST)

    def bundle(self, digest: str, *bundles: bytes) -> None:
        """Replace the bundles that refer to an image."""
        self.list(digest, *(self.add(digest, data) for data in bundles))

    def _put(self, target: str, data: bytes, kind: str) -> None:
        put = self._http.request("PUT", self._url(f"manifests/{target}"), body=data, headers={"Content-Type": kind})
        assert put.status == 201, put.data


class ReferrersFront(Front):
    """A registry with the referrers API before one that has none: lists of one entry each, the rest is passed on."""

    def __init__(self, behind: str) -> None:
        super().__init__(behind)
        self.entries: list[dict[str, Any]] = []

    def find(self, path: str) -> Any:
        place, referrers, rest = path.partition("/referrers/")
        return self._list(f"{place}{referrers}", rest) if referrers else super().find(path)

    def _list(self, place: str, rest: str) -> Answer:
        digest, _, number = rest.partition("/")
        page = int(number or 0)
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries[page : page + 1]}
        more = {"Link": f'<{place}{digest}/{page + 1}>; rel="next"'} if page + 1 < len(self.entries) else {}
        return 200, {"Content-Type": INDEX, **more}, json.dumps(document).encode()
