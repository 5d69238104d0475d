"""Repositories as cosign and skopeo left them when they had signed: recorded once, put into a registry by tests.

Made by cosign 2.5.0 and skopeo 1.18.0, as Debian 13 has them. With these ``python -m tests.host.recordings`` makes
them again.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from cryptography.hazmat.primitives import serialization

from tests.host.cosign import Cosign, Skopeo
from tests.host.registry import Registry, digest_of, entry, make_tar
from tests.host.signing import MANIFEST, Signer

PATH = Path(__file__).parents[1] / "data" / "signatures"
INDEX = "application/vnd.oci.image.index.v1+json"
IDENTITY = "origin.example/shop/web"
"""The repository that the recorded signatures name."""
ARCHITECTURE = "amd64"
_LAYER = make_tar([entry("f", b"content")])


class Recording:
    """One repository: the key of its signatures, the digest of its image, and all that was in it."""

    def __init__(self, name: str) -> None:
        document = json.loads((PATH / f"{name}.json").read_text())
        self.key: str = document["key"]
        self.digest: str = document["digest"]
        self.manifests: dict[str, dict[str, str]] = document["manifests"]
        self.blobs = {digest: base64.b64decode(text) for digest, text in document["blobs"].items()}

    def replay(self, address: str, name: str) -> None:
        """Put it all into a repository of a registry."""
        http, url = urllib3.PoolManager(), f"http://{address}/v2/{name}"
        for digest, data in self.blobs.items():
            place = http.request("POST", f"{url}/blobs/uploads/").headers["Location"]
            mark = "&" if "?" in place else "?"
            assert http.request("PUT", f"{place}{mark}digest={digest}", body=data).status == 201
        for target, manifest in self.manifests.items():
            kind = {"Content-Type": manifest["kind"]}
            put = http.request("PUT", f"{url}/manifests/{target}", body=manifest["data"].encode(), headers=kind)
            assert put.status == 201, put.data
        http.clear()

    def find(self, kind: str) -> bytes:
        """The only blob that a manifest calls so."""
        parts = [part for each in self.manifests.values() for part in json.loads(each["data"]).get("layers", ())]
        (digest,) = {part["digest"] for part in parts if part["mediaType"] == kind}
        return self.blobs[digest]


class _Recorder:
    """Reads a repository."""

    def __init__(self, address: str, name: str) -> None:
        self._url = f"http://{address}/v2/{name}"
        self._http = urllib3.PoolManager()
        self._manifests: dict[str, dict[str, str]] = {}
        self._blobs: dict[str, bytes] = {}

    def read(self) -> dict[str, Any]:
        tags = json.loads(self._get("tags/list"))["tags"]
        for tag in sorted(tags):
            self._read_manifest(tag)
        blobs = {digest: base64.b64encode(data).decode() for digest, data in self._blobs.items()}
        return {
            "digest": digest_of(self._manifests["1"]["data"].encode()),
            "manifests": self._manifests,
            "blobs": blobs,
        }

    def _get(self, path: str) -> bytes:
        answer = self._http.request("GET", f"{self._url}/{path}", headers={"Accept": f"{MANIFEST}, {INDEX}"})
        assert answer.status == 200, answer.data
        return answer.data

    def _read_manifest(self, target: str) -> None:
        data = self._get(f"manifests/{target}")
        document = json.loads(data)
        for each in document.get("manifests", []):
            self._read_manifest(each["digest"])
        for part in [*document.get("layers", []), *([document["config"]] if "config" in document else [])]:
            self._blobs[part["digest"]] = self._get(f"blobs/{part['digest']}")
        self._manifests[target] = {"kind": document["mediaType"], "data": data.decode()}


class _Session:
    """Signs, and writes down what came of it."""

    def __init__(self, registry: Registry, path: Path) -> None:
        self._registry = registry
        self._path = path
        self.cosign = Cosign(path)
        self.skopeo = Skopeo(path, registry.address)
        self.cosign.make_key("ecdsa")
        signer = Signer("ed25519")
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (path / "ed25519.pem").write_bytes(signer.key.private_bytes(serialization.Encoding.PEM, *form))
        self.cosign.import_key("ed25519", path / "ed25519.pem")

    def record(self, name: str, key: str, sign: Callable[[str], None]) -> None:
        """``sign`` gets the image, an index of one, by its digest."""
        layout = self._registry.layout()
        index = layout.index([(layout.image([_LAYER], architecture=ARCHITECTURE), ARCHITECTURE, "")])
        where = self._registry.push(layout, index, f"{name}:1").rpartition(":")[0]
        sign(f"{where}@{index['digest']}")
        public = (self._path / f"{key}.pub").read_text()
        document = {"key": public, **_Recorder(self._registry.address, name).read()}
        (PATH / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Record everything again."""
    PATH.mkdir(exist_ok=True)
    said = ("--sign-container-identity", IDENTITY)
    with Registry() as registry, tempfile.TemporaryDirectory(prefix="holdfast-test-") as name:
        session = _Session(registry, Path(name))
        cosign, skopeo = session.cosign, session.skopeo
        session.record("cosign", "ecdsa", lambda image: cosign.sign(image, "ecdsa", *said))
        session.record(
            "cosign-annotated",
            "ed25519",
            lambda image: cosign.sign(image, "ed25519", "--recursive", "-a", "build=7", *said),
        )
        session.record("cosign-bundle", "ecdsa", lambda image: cosign.bundle(image, "ecdsa"))
        session.record(
            "skopeo",
            "ecdsa",
            lambda image: skopeo.sign(
                image, f"{image.partition('@')[0]}:1", "ecdsa", "--all", "--sign-identity", f"{IDENTITY}:1"
            ),
        )


if __name__ == "__main__":
    main()
