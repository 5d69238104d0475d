"""ADD: archives and URLs, and what hostile ones try."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from agent.builder.faults import BuildCancelled, BuildFailed
from agent.builder.files import archives
from agent.builder.order import SecretSource
from agent.builder.remote import DownloadFailed, is_reachable
from agent.image.limits import UnpackLimits
from tests.host.builderlab import Lab, open_builder_lab
from tests.host.gitserver import open_git_server
from tests.host.registry import directory, entry, make_tar

pytestmark = pytest.mark.host
PLAIN = make_tar([directory("d", 0o750, uid=3), entry("d/f", b"data", mode=0o600, uid=4, gid=5, mtime=1_600_000_000)])
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


class Server(ThreadingHTTPServer):
    """Files over HTTP, and every way to misbehave; ``asked`` are the requests, with their headers."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.slow, self.stopping = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        path, _, query = self.path.partition("?")
        if path.startswith("/away/"):
            return self._answer(302, {"Location": query})
        if path == "/loop":
            return self._answer(302, {"Location": "/loop"})
        if path == "/cut":
            return self._answer(200, {"Content-Length": "100"}, b"short")
        if path == "/slow":
            self._answer(200, {"Content-Length": "100"}, b"first")
            self.server.slow.set()
            self.server.stopping.wait(60)
            return None
        if path == "/gone":
            return self._answer(404, {})
        if path == "/busy":
            return self._answer(503, {})
        body = PACKERS["gzip"](PLAIN) if path.endswith(".gz") else b"remote file"
        headers = {"Content-Length": str(len(body)), "Last-Modified": "Sun, 13 Sep 2020 12:26:40 GMT"}
        return self._answer(200, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started
        started.stopping.set()
        started.shutdown()


@pytest.mark.parametrize("kind", PACKERS)
def test_archives_are_told_by_their_bytes(lab: Lab, kind: str) -> None:
    data = PACKERS[kind](PLAIN)
    (lab.context / "archive.bin").write_bytes(data)
    (lab.context / "text.tar.gz").write_bytes(PACKERS[kind](b"no archive"))
    made = lab.build(
        "FROM scratch\nADD archive.bin /a\nADD --chown=9 archive.bin text.tar.gz /b/\nCOPY archive.bin /c\n"
    )
    first, second, third = (lab.layer(made, index) for index in range(3))
    assert {name: (m.uid, m.gid, m.mode) for name, m in first.items()} == {
        "a": (0, 0, 0o755), "a/d": (3, 0, 0o750), "a/d/f": (4, 5, 0o600),
    }  # fmt: skip
    assert first["a/d/f"].mtime == 1_600_000_000
    assert set(second) == {"b", "b/d", "b/d/f", "b/text.tar.gz"} and {m.uid for m in second.values()} == {9}
    assert third["c"].size == len(data)
    lab.check_clean()


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([entry("../x", b"x")], "unsafe name"),
        ([entry("/etc/x", b"x")], "absolute name"),
        ([entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)], "device node"),
        ([entry("disk", kind=tarfile.BLKTYPE, devmajor=8)], "device node"),
        ([entry("gone", kind=tarfile.CHRTYPE)], "device node"),
        ([entry("pipe", kind=tarfile.FIFOTYPE)], "FIFO"),
        ([entry(".wh.x", b"")], "begins with .wh."),
        ([entry(".wh..wh..opq", b"")], "begins with .wh."),
        ([entry("l", kind=tarfile.SYMTYPE, linkname="/etc"), entry("l/x", b"x")], "the archive"),
        ([entry("h", kind=tarfile.LNKTYPE, linkname="/etc/passwd")], "absolute name"),
        ([entry("h", kind=tarfile.LNKTYPE, linkname="../../etc/passwd")], "unsafe name"),
    ],
)
def test_hostile_archives_are_refused(lab: Lab, entries: list[object], fault: str) -> None:
    """Attack rows 44 to 46, through ADD: device nodes, links out of it, and names that would be whiteouts."""
    (lab.context / "hostile.tar").write_bytes(make_tar([entry("first", b"1"), *entries]))  # type: ignore[list-item]
    with pytest.raises(BuildFailed, match=f"'hostile.tar' cannot be unpacked: .*{fault}"):
        lab.build("FROM scratch\nADD hostile.tar /x\n", tag="hostile:1")
    lab.check_clean()


def test_links_of_an_archive_and_an_image_lead_nowhere(lab: Lab, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    links = [
        entry("out", kind=tarfile.SYMTYPE, linkname=str(decoy)),
        entry("up", kind=tarfile.SYMTYPE, linkname="../../.."),
    ]
    (lab.context / "links.tar").write_bytes(make_tar(links))
    (lab.context / "into.tar").write_bytes(make_tar([directory("d"), entry("d/f", b"f")]))
    made = lab.build("FROM scratch\nADD links.tar /\nADD into.tar /out\nADD into.tar /up/up/x/\n")
    assert f"{decoy}/d/f".lstrip("/") in lab.layer(made, 1) and "x/d/f" in lab.layer(made, 2)
    assert list(decoy.iterdir()) == []


def test_bombs_and_cut_archives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack row 47."""
    zeros = make_tar([entry("zeros", bytes(4 << 20))])
    random = make_tar([entry("f", os.urandom(1_000_000))])
    monkeypatch.setattr(archives, "UnpackLimits", lambda: UnpackLimits(ratio=20, ratio_floor=1 << 20))
    for kind, pack in PACKERS.items():
        (lab.context / "cut").write_bytes(pack(random)[:950_000])
        with pytest.raises(BuildFailed, match="'cut' cannot be unpacked"):
            lab.build("FROM scratch\nADD cut /x\n", tag=f"cut:{kind}")
        if kind != "tar":
            (lab.context / "bomb").write_bytes(pack(zeros))
            with pytest.raises(BuildFailed, match="'bomb' cannot be unpacked: the archive unpacks to more"):
                lab.build("FROM scratch\nADD bomb /x\n", tag="bomb:1")
    lab.check_clean()


def test_files_of_the_network(lab: Lab, server: Server) -> None:
    checksum = f"sha256:{hashlib.sha256(b'remote file').hexdigest()}"
    (lab.context / "local").write_text("local")
    text = (
        f"FROM scratch\nARG S={server.url}\nADD $S/dir/a%20b.txt?x=1 local /d/\nADD --chmod=644 --chown=7 $S/f /named\n"
        f"ADD --checksum={checksum} $S/sum /s/\nADD --unpack=true $S/t.gz /t\nADD $S/t.gz /p/\n"
        "ADD $S/away/name?/moved /m/\n"
    )
    made = lab.build(text, network="host")
    first = lab.layer(made, 0)
    assert set(first) == {"d", "d/a b.txt", "d/local"}
    assert (first["d/a b.txt"].mode, first["d/a b.txt"].mtime) == (0o600, 1_600_000_000)
    named = lab.layer(made, 1)["named"]
    assert (named.mode, named.uid, lab.read(made, "named")) == (0o644, 7, b"remote file")
    assert "s/sum" in lab.layer(made, 2) and "t/d/f" in lab.layer(made, 3) and "p/t.gz" in lab.layer(made, 4)
    assert set(lab.layer(made, 5)) == {"m", "m/name"}
    asked = len(server.asked)
    lab.build(text, network="host")
    paths = [path for path, _ in server.asked[asked:]]
    assert len(lab.cached) == 6 and "/sum" not in paths and "/f" in paths
    assert all("Authorization" not in headers and "Cookie" not in headers for _, headers in server.asked)
    lab.check_clean()


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/gone", "answers 404"),
        ("/loop", "redirects more than"),
        ("/away/x?file:///etc/passwd", "not a URL that can be downloaded"),
        ("/away/x?http://user:pass@127.0.0.1/x", "holds a user"),
        ("/", "names no file"),
        ("/a%2Fb", "names no file"),
    ],
)
def test_what_is_not_downloaded(lab: Lab, server: Server, path: str, fault: str) -> None:
    with pytest.raises(BuildFailed, match=f"Dockerfile:2:1: ADD .*{fault}"):
        lab.build(f"FROM scratch\nADD {server.url}{path} /x/\n", network="host", tag="never:1")
    lab.check_clean()


def test_downloads_that_break_may_be_tried_again(lab: Lab, server: Server) -> None:
    for path in ("/cut", "/busy"):
        with pytest.raises(DownloadFailed) as caught:
            lab.build(f"FROM scratch\nADD {server.url}{path} /x\n", network="host", tag="never:1")
        assert caught.value.retry_after is not None
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(BuildFailed, match="--checksum says"):
        lab.build(f"FROM scratch\nADD --checksum={wrong} {server.url}/f /x\n", network="host", tag="never:1")
    lab.check_clean()


def test_a_slow_download_is_cancelled(lab: Lab, server: Server) -> None:
    cancel = threading.Event()
    threading.Thread(target=lambda: (server.slow.wait(60), cancel.set()), daemon=True).start()
    with pytest.raises(BuildCancelled):
        lab.build(f"FROM scratch\nADD {server.url}/slow /x\n", cancel, network="host", tag="never:1")
    lab.check_clean()


def test_encrypted_downloads_are_verified(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(tmp_path / "key"),
        "-out",
        str(tmp_path / "ca"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "ca", tmp_path / "key")
    with Server(tls) as secure:
        for host, trusted in (("localhost", False), ("localhost", True), ("127.0.0.1", True)):
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca") if trusted else "/dev/null")
            text = f"FROM scratch\nADD https://{host}:{secure.server_port}/f /x\n"
            if host == "localhost" and trusted:
                assert lab.read(lab.build(text, network="host"), "x") == b"remote file"
                continue
            with pytest.raises(DownloadFailed, match=r"certificate|match"):
                lab.build(text, network="host", tag="never:1")
        secure.shutdown()


def test_the_hosts_own_services_are_out_of_reach(lab: Lab, server: Server) -> None:
    """A Dockerfile must not read what listens on the host through the agent, by any name or redirect."""
    asked = len(server.asked)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"):
        with pytest.raises(BuildFailed, match="a build cannot reach"):
            lab.build(f"FROM scratch\nADD http://{host}:{server.server_port}/f /x\n", tag="never:1")
    assert len(server.asked) == asked
    for url in ("http://user:secret@example.com/x", "https://example.com:0/x", "http://exa mple/x"):
        with pytest.raises(Exception, match=r"holds a user|not a URL|must end in"):
            lab.build(f"FROM scratch\nADD {url} /x\n", tag="never:1")


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("93.184.216.34", True), ("10.0.0.1", True), ("2606:2800::1", True), ("169.254.169.254", False),
        ("fe80::1%eth0", False), ("::", False), ("::ffff:127.0.0.1", False), ("224.0.0.1", False), ("127.9.9.9", False),
    ],
)  # fmt: skip
def test_addresses(address: str, wanted: bool) -> None:
    assert is_reachable(address) == wanted


def test_files_of_a_git_repository(lab: Lab, tmp_path: Path) -> None:
    """Attack row 57: pinned to the address that was looked at, without credentials or local paths."""
    with open_git_server(tmp_path / "served") as git:
        repository = git.create("app")
        inner = repository.tree(("100755", "run", "run\n"))
        tree = repository.tree(("100644", "f", "file"), ("040000", "sub", inner), ("100644", "x.md", "x"))
        commit = repository.commit(tree)
        secrets = {"GIT_AUTH_TOKEN": SecretSource(value=b"never-sent")}
        text = (
            f"FROM scratch\nADD --exclude=*.md {git.url('app')} /all/\nADD --chown=7 {git.url('app')}#main:sub /s\n"
            f"ADD {git.url('app')}#{commit} /c/\n"
        )
        made = lab.build(text, network="host", secrets=secrets)
        assert set(lab.layer(made, 0)) == {"all", "all/f", "all/sub", "all/sub/run"}
        assert {name: m.uid for name, m in lab.layer(made, 1).items()} == {"s": 7, "s/run": 7}
        assert "c/x.md" in lab.layer(made, 2) and set(git.seen) == {""}
        lab.build(text, network="host")
        assert len(lab.cached) == 3
        asked = len(git.seen)
        with pytest.raises(BuildFailed, match="a build cannot reach"):
            lab.build(text, tag="never:1")
        assert len(git.seen) == asked
        repository.commit(repository.tree(("160000", "module", commit), ("120000", "l", "/etc")), "evil")
        with pytest.raises(BuildFailed, match=r"the submodule 'module' of .*has no URL in \.gitmodules"):
            lab.build(f"FROM scratch\nADD {git.url('app')}#evil /x\n", network="host", tag="never:1")
        with pytest.raises(BuildFailed, match="no branch or tag"):
            lab.build(f"FROM scratch\nADD {git.url('app')}#gone /x\n", network="host", tag="never:1")
    lab.check_clean()
