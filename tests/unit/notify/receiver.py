"""A small real HTTP server that keeps what it is sent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Inbox:
    """``answers`` are the statuses to come, the last one for good; ``held`` makes it wait with the answer."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    arrived: queue.Queue[Received] = field(default_factory=queue.Queue)
    held: threading.Event = field(default_factory=threading.Event)

    def next(self, seconds: float = 10.0) -> Received:
        return self.arrived.get(timeout=seconds)


@contextmanager
def receiving(address: str = "127.0.0.1") -> Iterator[Inbox]:
    inbox = Inbox()
    inbox.held.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.arrived.put(Received(self.path, dict(self.headers), body))
            inbox.held.wait(20)
            status = inbox.answers.pop(0) if len(inbox.answers) > 1 else inbox.answers[0]
            self.send_response(status)
            if status in (301, 302):
                self.send_header("Location", inbox.url + "/elsewhere")
            self.end_headers()
            self.wfile.write(b"x" * 1000)

        def log_message(self, *_arguments: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    inbox.url = f"http://{address}:{server.server_port}"
    try:
        yield inbox
    finally:
        inbox.held.set()
        server.shutdown()
        server.server_close()
        thread.join()
