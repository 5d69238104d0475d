"""cosign and skopeo, who sign and verify by themselves, as oracles of signatures.

Debian 13 has both. Debian 12 has no cosign, and its skopeo was built without this: there the recordings of
``recordings.py`` stand in for them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.host.bundles import SIGNATURE

PASSWORD = "of a test"
PLAIN = ("--allow-http-registry", "--allow-insecure-registry")
_ROOT = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}


@cache
def have_cosign() -> bool:
    return shutil.which("cosign") is not None


@cache
def have_skopeo() -> bool:
    """Whether skopeo can sign: one that cannot does not know how to make a key either."""
    run = subprocess.run(["skopeo", "generate-sigstore-key", "--help"], capture_output=True, check=False)
    return run.returncode == 0


class Cosign:
    """Works in a directory; a key is named by ``NAME.key`` and ``NAME.pub`` in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "root.json").write_text(json.dumps(_ROOT))
        (path / "predicate.json").write_text("{}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COSIGN_PASSWORD": PASSWORD, "HOME": str(self.path)}
        command = ["cosign", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.path, check=False)

    def _must(self, *arguments: str) -> None:
        run = self._run(*arguments)
        assert run.returncode == 0, run.stderr

    def make_key(self, name: str) -> None:
        """ECDSA on P-256, as cosign makes them."""
        self._must("generate-key-pair", "--output-key-prefix", name)

    def import_key(self, name: str, pem: Path) -> None:
        """A private key of another kind."""
        self._must("import-key-pair", "--key", str(pem), "--output-key-prefix", name)

    def sign(self, image: str, key: str, *options: str) -> None:
        self._must("sign", "--key", f"{key}.key", "--tlog-upload=false", "--yes", *PLAIN, *options, image)

    def bundle(self, image: str, key: str) -> None:
        """What cosign 3 does to sign: a bundle around a statement of that kind."""
        kind = ("--type", SIGNATURE, "--predicate", "predicate.json")
        how = ("--key", f"{key}.key", "--tlog-upload=false", "--yes", "--new-bundle-format")
        self._must("attest", *how, *kind, *PLAIN, image)

    def accepts(self, image: str, public: Path) -> bool:
        """Whether it takes an image for signed."""
        how = ("--key", str(public), "--insecure-ignore-tlog")
        return self._run("verify", *how, *PLAIN, image).returncode == 0

    def accepts_bundle(self, image: str, public: Path) -> bool:
        how = ("--key", str(public), "--insecure-ignore-tlog", "--new-bundle-format", "--trusted-root", "root.json")
        return self._run("verify-attestation", *how, "--type", SIGNATURE, *PLAIN, image).returncode == 0


class Skopeo:
    """Works in a directory, with cosign's keys, and with signatures beside the images of one registry."""

    def __init__(self, path: Path, registry: str) -> None:
        self.path = path
        self.registry = registry
        (path / "registries.d").mkdir()
        beside = {"docker": {registry: {"use-sigstore-attachments": True}}}
        (path / "registries.d/test.yaml").write_text(json.dumps(beside))
        (path / "password").write_text(PASSWORD)

    def _copy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        head = ["skopeo", "--registries.d", str(self.path / "registries.d")]
        plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        run = [*head, *arguments[:1], "copy", "-q", "--preserve-digests", *plain, *arguments[1:]]
        return subprocess.run(run, capture_output=True, text=True, check=False)

    def sign(self, source: str, target: str, key: str, *options: str) -> None:
        """Copy an image, and sign it where it comes to."""
        how = ("--sign-by-sigstore-private-key", str(self.path / f"{key}.key"))
        how = (*how, "--sign-passphrase-file", str(self.path / "password"))
        run = self._copy("--insecure-policy", *how, *options, f"docker://{source}", f"docker://{target}")
        assert run.returncode == 0, run.stderr

    def accepts(self, image: str, public: Path, identity: str = "") -> bool:
        """Whether its policy lets an image in; ``identity`` is how that compares names, if not in its usual way."""
        rule = {"type": "sigstoreSigned", "keyPath": str(public)}
        whole = {**rule, "signedIdentity": {"type": identity}} if identity else rule
        policy, target = self.path / "policy.json", self.path / "copied"
        policy.write_text(json.dumps({"default": [whole]}))
        run = self._copy(f"--policy={policy}", f"docker://{image}", f"dir:{target}")
        shutil.rmtree(target, ignore_errors=True)
        assert run.returncode == 0 or "Source image rejected" in run.stderr, run.stderr
        return run.returncode == 0
