"""Real git repositories on real servers: git's own http-backend behind a small CGI host, and git daemon."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.host.agents import eventually
from tests.ports import reserve_port

BACKEND = "/usr/lib/git-core/git-http-backend"
_AUTHOR = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@x"}


class Repository:
    """A repository to be served, and to be filled by plumbing, which takes also what a careful git would not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", "--bare", "-b", "main", str(path), at=path.parent)
        self.git("config", "http.uploadpack", "true")

    def git(self, *arguments: str, at: Path | None = None, data: bytes = b"") -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.path.parent), **_AUTHOR}
        command = ["git", "-c", "core.protectNTFS=false", *arguments]
        done = subprocess.run(
            command, cwd=at or self.path, input=data, capture_output=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def tree(self, *entries: tuple[str, str, str | bytes]) -> str:
        """A tree of (mode, name, content or object id); no path in a name is made sense of."""
        lines = b""
        for mode, name, content in sorted(entries, key=lambda entry: entry[1]):
            kind = {"040000": "tree", "160000": "commit"}.get(mode, "blob")
            data = content.encode() if isinstance(content, str) else content
            identity = str(content) if kind != "blob" else self.git("hash-object", "-w", "--stdin", data=data)
            lines += f"{mode} {kind} {identity}\t{name}".encode() + b"\0"
        return self.git("mktree", "--missing", "-z", data=lines)

    def commit(self, tree: str, branch: str = "main") -> str:
        commit = self.git("commit-tree", "-m", "x", tree)
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return commit


class _Cgi(BaseHTTPRequestHandler):
    """As much of CGI (RFC 3875) as git's backend needs."""

    root: Path
    token: str
    versions: bool
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        if self.token and self.headers.get("Authorization") != self.token:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if self.versions else "",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        answer = subprocess.run([BACKEND], input=body, capture_output=True, check=False, env=environment).stdout
        head, _, rest = answer.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in {**fields, "Content-Length": str(len(rest))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest)

    do_POST = do_GET  # noqa: N815 - the name http.server asks for

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class GitServer:
    """``url(name)`` is where the repository called so is served by http, or https with a certificate and its key;
    without ``versions`` only by the first version of the protocol, in which nothing but refs can be had."""

    def __init__(self, root: Path, *, versions: bool = True, certificate: tuple[Path, Path] | None = None) -> None:
        self.root = root
        self.seen: list[str] = []
        known = {"root": root, "token": "", "versions": versions, "seen": self.seen}
        self._handler = type("Handler", (_Cgi,), known)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler)
        self._scheme = "https" if certificate else "http"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def demand(self, token: str) -> None:
        """Answer only to this Authorization header; empty: to everybody."""
        self._handler.token = token  # type: ignore[attr-defined]

    def create(self, name: str) -> Repository:
        return Repository(self.root / f"{name}.git")

    def url(self, name: str) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/{name}.git"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def daemon(self) -> Iterator[str]:
        """git daemon over the same repositories; gives the beginning of its URLs."""
        port = reserve_port()
        command = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--reuseaddr"]
        process = subprocess.Popen(
            [*command, f"--base-path={self.root}", str(self.root)], stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            eventually(lambda: _answers(port), what="git daemon")
            yield f"git://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def open_git_server(
    root: Path, *, versions: bool = True, certificate: tuple[Path, Path] | None = None
) -> Iterator[GitServer]:
    root.mkdir(exist_ok=True)
    server = GitServer(root, versions=versions, certificate=certificate)
    try:
        yield server
    finally:
        server.close()
