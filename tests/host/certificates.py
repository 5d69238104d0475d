"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """An authority of its own, in ``path``."""

    def __init__(self, path: Path, name: str = "authority") -> None:
        self._path = path
        self.certificate, self._key = path / f"{name}.pem", path / f"{name}.key"
        self._openssl(self.certificate, self._key, name, "-addext", "basicConstraints=critical,CA:TRUE")

    def sign(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """A certificate (with its key) for a server at ``addresses``, or for a client."""
        certificate, key = self._path / f"{name}.pem", self._path / f"{name}.key"
        names = ",".join(f"IP:{address}" for address in addresses) or f"DNS:{name}"
        signer = ("-CA", str(self.certificate), "-CAkey", str(self._key))
        self._openssl(certificate, key, name, *signer, "-addext", f"subjectAltName={names}")
        return certificate, key

    def _openssl(self, certificate: Path, key: Path, name: str, *options: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), *options]
        subprocess.run(command, check=True, capture_output=True)
