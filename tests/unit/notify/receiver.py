"""A small real HTTP server that keeps what it is sent, and one that no sender should wait for."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
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
    """``answers`` are the statuses to come, the last one for good; ``held`` makes it wait with the answer; redirects
    lead to ``location``."""

    url: str = ""
    location: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    arrived: queue.Queue[Received] = field(default_factory=queue.Queue)
    held: threading.Event = field(default_factory=threading.Event)

    def next(self, seconds: float = 60.0) -> Received:
        return self.arrived.get(timeout=seconds)


@contextmanager
def receiving(address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Inbox]:
    inbox = Inbox()
    inbox.held.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.arrived.put(Received(self.path, dict(self.headers), body))
            inbox.held.wait(60)
            status = inbox.answers.pop(0) if len(inbox.answers) > 1 else inbox.answers[0]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", inbox.location or inbox.url + "/elsewhere")
            self.end_headers()
            self.wfile.write(b"x" * 1000)

        def log_message(self, *_arguments: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    inbox.url = f"{'https' if tls else 'http'}://{address}:{server.server_port}"
    try:
        yield inbox
    finally:
        inbox.held.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Tormentor:
    """A server that takes what it is sent and answers never or, where ``drip`` is something, with that, byte by byte,
    and no end. ``most`` is how many connections there were at once."""

    port: int = 0
    drip: bytes = b""
    open: int = 0
    most: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, stream: socket.socket) -> None:
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
        with stream, contextlib.suppress(OSError):
            stream.settimeout(0.02)
            while not self.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    if not stream.recv(4096):
                        break
                stream.sendall(self.drip[:1])
                self.drip = self.drip[1:] or self.drip
        with self.lock:
            self.open -= 1


@contextmanager
def tormenting(drip: bytes = b"") -> Iterator[Tormentor]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tormentor = Tormentor(listener.getsockname()[1], drip)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    stream, _ = listener.accept()
                    threading.Thread(target=tormentor.serve, args=(stream,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield tormentor
        finally:
            tormentor.ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
