"""A registry on loopback that does what it is told, also what no registry should: for tests of the client."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler

from tests.unit.image.loopback import LoopbackServer

Answer = tuple[int, Mapping[str, str], bytes | Iterable[bytes]]


class StubRegistry(LoopbackServer):
    """Serves ``answers`` by path (without query); a callable gets the request's headers. Records all requests.

    With ``tls`` it is encrypted, and ``peers`` are the client certificates that were shown (None: none was).
    """

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer | Callable[[Mapping[str, str]], Answer]] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.peers: list[object] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                if isinstance(self.connection, ssl.SSLSocket):
                    stub.peers.append(self.connection.getpeercert() or None)
                stub.requests.append((self.command, self.path, headers, body))
                answer = stub.find(self.path.partition("?")[0])
                status, reply, data = answer(headers) if callable(answer) else answer
                self.send_response(status)
                length = {"Content-Length": str(len(data))} if isinstance(data, bytes) else {}
                for key, value in {**length, **reply}.items():
                    self.send_header(key, value)
                self.end_headers()
                for piece in (data,) if isinstance(data, bytes) else data:
                    self.wfile.write(piece)

            def do_POST(self) -> None:
                self.do_GET()

        super().__init__(Handler, host, tls)

    def find(self, path: str) -> Answer | Callable[[Mapping[str, str]], Answer]:
        """What is answered at a path."""
        return self.answers.get(path, (404, {}, b""))

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.requests if path != "/v2/"]

    def secrets(self) -> list[str]:
        """Every Authorization-like header it was sent."""
        return [
            f"{key}: {value}"
            for _, _, headers, _ in self.requests
            for key, value in headers.items()
            if key in ("authorization", "proxy-authorization", "cookie")
        ]
