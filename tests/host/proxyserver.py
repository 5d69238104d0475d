"""Real proxies (tinyproxy, microsocks), in mount namespaces whose ``/etc/hosts`` gives them a name of their own."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.ports import reserve_port

NAME = "registry.behind.test"


def await_port(process: subprocess.Popen[bytes], port: int) -> None:
    """Until a proxy takes connections on loopback."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, f"{process.args!r} did not start"
        assert time.monotonic() < deadline
        time.sleep(0.02)


class ProxyServer:
    """Leads to loopback under the name ``NAME``; with ``user`` (name, password) only whom it knows."""

    def __init__(self, path: Path, user: tuple[str, str] | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="proxy-", dir=path))
        self.port = reserve_port()
        self.log = self.path / "log"
        lines = [f"Port {self.port}", "Listen 127.0.0.1", "Timeout 60", f'LogFile "{self.log}"', "LogLevel Connect"]
        lines += ["MaxClients 50", "DisableViaHeader Yes", *([f"BasicAuth {user[0]} {user[1]}"] if user else [])]
        (self.path / "conf").write_text("\n".join(lines) + "\n")
        (self.path / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.port}"

    def lines(self, word: str) -> list[str]:
        """The log's lines with a word: one ``CONNECT`` for each tunnel, one ``GET`` for each request it could read."""
        return [line for line in self.log.read_text().splitlines() if f": {word} " in line]

    def __enter__(self) -> ProxyServer:
        script = 'mount --bind "$0/hosts" /etc/hosts && exec tinyproxy -d -c "$0/conf"'
        command = ["unshare", "-m", "sh", "-c", script, str(self.path)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_port(self._process, self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


class SocksServer:
    """microsocks, which leads to loopback under the name ``NAME``; only whom it knows."""

    def __init__(self, path: Path, user: tuple[str, str]) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="socks-", dir=path))
        (self._path / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
        self._user = user
        self.log = self._path / "log"
        self.port = reserve_port()

    def __enter__(self) -> SocksServer:
        script = 'mount --bind "$0/hosts" /etc/hosts && exec microsocks -i 127.0.0.1 -p "$1" -u "$2" -P "$3"'
        command = ["unshare", "-m", "sh", "-c", script, str(self._path), str(self.port), *self._user]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        await_port(self._process, self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


class TlsFront:
    """Takes TLS on loopback and passes on what is in it to another port, byte for byte."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._context, self._port = context, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._server.accept()[0],), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", self._port)) as inner,
        ):
            while True:
                ready = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
                source, target = (outer, inner) if outer in ready else (inner, outer)
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)

    def close(self) -> None:
        """Take no more."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
