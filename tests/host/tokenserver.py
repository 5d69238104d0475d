"""A token server for docker-registry (distribution token spec)."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit.image.stub_registry import Answer, StubRegistry

GOOD = "Basic " + base64.b64encode(b"joe:secret").decode()


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer(StubRegistry):
    """Signs RS256 tokens for who has the password (or the refresh token): all that is asked for, save repositories
    in ``closed``. With ``refresh`` it gives refresh tokens to who asks for them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.closed: set[str] = set()
        self.refresh = False
        self.key, self.certificate = path / "key.pem", path / "cert.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
        command += ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.answers["/token"] = self.answer

    @property
    def settings(self) -> dict[str, str]:
        """The ``auth.token`` part of the registry's configuration."""
        realm = f"http://{self.address}/token"
        return {"realm": realm, "service": "service", "issuer": "issuer", "rootcertbundle": str(self.certificate)}

    def answer(self, headers: Any) -> Answer:
        method, path, _, body = next(asked for asked in reversed(self.requests) if asked[2] is headers)
        query = parse_qs(urlsplit(path).query if method == "GET" else body.decode())
        if headers.get("authorization") != GOOD and query.get("refresh_token") != ["refresh-me"]:
            return 401, {}, b"{}"
        scopes = [scope.split(":") for text in query.get("scope", ()) for scope in text.split()]
        access = [
            {"type": kind, "name": name, "actions": actions.split(",")}
            for kind, name, actions in scopes
            if name not in self.closed
        ]
        document = {"token": self.sign(access)}
        if self.refresh and "offline_token" in query:
            document["refresh_token"] = "refresh-me"
        return 200, {}, json.dumps(document).encode()

    def sign(self, access: list[dict[str, Any]]) -> str:
        pem = self.certificate.read_text()
        chain = [pem.partition("BEGIN CERTIFICATE-----")[2].partition("-----END")[0].replace("\n", "")]
        now = int(time.time())
        claims = {"iss": "issuer", "sub": "joe", "aud": "service", "exp": now + 300, "nbf": now - 10, "iat": now}
        claims |= {"jti": "1", "access": access}
        signed = ".".join(
            encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": chain}, claims)
        )
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{encode(signature)}"
