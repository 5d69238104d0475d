"""A real docker-registry on a free loopback port, and images made from busybox-static to put into it.

with Registry() as registry:
    reference = registry.push_busybox("app:1", Cmd=["sleep", "60"])
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import zstandard
from isal import igzip

from tests.ports import reserve_port

BUSYBOX = Path("/bin/busybox")
TYPES = {
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
HOST_ARCHITECTURE = MACHINES.get(os.uname().machine, os.uname().machine)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compress(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return igzip.compress(data)
    return zstandard.compress(data) if compression == "zstd" else data


def make_tar(entries: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer tar from headers and contents; sizes are filled in."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def entry(name: str, content: bytes = b"", *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, **fields: Any) -> Any:
    """One header and its content, for ``make_tar``."""
    info = tarfile.TarInfo(name)
    info.mode, info.type = mode, kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755, **fields: Any) -> Any:
    return entry(name, mode=mode, kind=tarfile.DIRTYPE, **fields)


def busybox_layer(extra: Mapping[str, bytes] | None = None) -> bytes:
    """A root file system: busybox with all its applets, /etc/passwd, /etc/group and /tmp, and ``extra`` files."""
    files = (extra or {}).items()
    entries = [entry(name, text, mode=0o755 if text.startswith(b"#!") else 0o644) for name, text in files]
    return _busybox_entries() + make_tar(entries)


@functools.cache
def _busybox_entries() -> bytes:
    """The beginning of every such layer: what goes on with another archive."""
    entries = [directory(name) for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "var")]
    entries.append(directory("tmp", 0o1777))
    entries.append(entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755))
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries += [
        entry(f"bin/{name}", kind=tarfile.SYMTYPE, mode=0o777, linkname="busybox")
        for name in applets
        if name != "busybox"
    ]
    passwd = (
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\napp:x:1000:1000::/home:/bin/sh\n"
    )
    group = b"root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n"
    entries += [entry("etc/passwd", passwd), entry("etc/group", group)]
    whole = make_tar(entries)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        last = archive.getmembers()[-1]
    return whole[: last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE]


class Layout:
    """An OCI image layout on disk, to be filled with images and pushed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._write_index([])

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))

    def blob(self, data: bytes) -> str:
        digest = digest_of(data)
        (self.path / "blobs" / "sha256" / digest[7:]).write_bytes(data)
        return digest

    def describe(self, data: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data)}

    def image(
        self,
        layers: Iterable[bytes],
        *,
        compression: str = "gzip",
        config: Mapping[str, Any] | None = None,
        architecture: str = HOST_ARCHITECTURE,
        variant: str = "",
    ) -> dict[str, Any]:
        """Write one image of uncompressed layer tars and return its manifest's descriptor."""
        tars = list(layers)
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        } | ({"variant": variant} if variant else {})
        manifest = {
            "schemaVersion": 2,
            "mediaType": TYPES["manifest"],
            "config": self.describe(json.dumps(document).encode(), TYPES["config"]),
            "layers": [self.describe(compress(tar, compression), TYPES[compression]) for tar in tars],
        }
        return self.describe(json.dumps(manifest).encode(), TYPES["manifest"])

    def index(self, entries: Iterable[tuple[dict[str, Any], str, str]]) -> dict[str, Any]:
        """A multi-platform index over (manifest descriptor, architecture, variant)."""
        manifests = []
        for descriptor, architecture, variant in entries:
            platform = {"os": "linux", "architecture": architecture} | ({"variant": variant} if variant else {})
            manifests.append({**descriptor, "platform": platform})
        kind = "application/vnd.oci.image.index.v1+json"
        return self.describe(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode(), kind)

    def name(self, descriptor: Mapping[str, Any], name: str) -> None:
        """Make ``name`` the only entry of the layout's index.json."""
        annotated = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
        self._write_index([annotated])


class Upload:
    """What a layout holds, as it is, into one repository of a registry."""

    def __init__(self, connection: http.client.HTTPConnection, layout: Layout, repository: str) -> None:
        self._connection = connection
        self._layout = layout
        self._repository = repository

    def manifest(self, descriptor: Mapping[str, Any], reference: str) -> None:
        """An image or an index with all that it names."""
        data = self._read(descriptor)
        document = json.loads(data)
        for each in document.get("manifests", []):
            self.manifest(each, each["digest"])
        parts = [*document.get("layers", []), *([document["config"]] if "config" in document else [])]
        for each in {part["digest"]: part for part in parts}.values():
            self._blob(each)
        self._ask("PUT", f"/v2/{self._repository}/manifests/{reference}", data, str(descriptor["mediaType"]))

    def _blob(self, descriptor: Mapping[str, Any]) -> None:
        place = self._ask("POST", f"/v2/{self._repository}/blobs/uploads/")
        place = place[place.index("/v2/") :]
        place += f"{'&' if '?' in place else '?'}digest={descriptor['digest']}"
        self._ask("PUT", place, self._read(descriptor), "application/octet-stream")

    def _read(self, descriptor: Mapping[str, Any]) -> bytes:
        return (self._layout.path / "blobs/sha256" / str(descriptor["digest"])[7:]).read_bytes()

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> str:
        """The Location of the answer."""
        self._connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
        return str(answer.headers["Location"])


class Registry:
    """One docker-registry process with its own storage; ``users`` turns basic authentication on.

    ``http`` is added to that part of its configuration: ``tls``, ``prefix``.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        auth: Mapping[str, Any] | None = None,
        base: Path | None = None,
        http: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="holdfast-registry-", dir=base))
        self.users = dict(users or {})
        self.auth = dict(auth or {})
        self.http = dict(http or {})
        self.more: dict[str, Any] = {}
        self.port = reserve_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._made = 0

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``: the registry part of a reference."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start (again) on the same port and storage; returns once it answers."""
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.path / "storage")}, "delete": {"enabled": True}},
            "http": {"addr": self.address, **self.http},
            **self.more,
        }
        if self.users:
            lines = [_htpasswd(name, password) for name, password in self.users.items()]
            (self.path / "htpasswd").write_text("\n".join(lines) + "\n")
            self.auth = {"htpasswd": {"realm": "test", "path": str(self.path / "htpasswd")}}
        if self.auth:
            configuration["auth"] = self.auth
        (self.path / "config.yml").write_text(json.dumps(configuration))
        with (self.path / "log").open("ab") as log:
            command = ["docker-registry", "serve", str(self.path / "config.yml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert self.process is not None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("docker-registry did not start:\n" + (self.path / "log").read_text()[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL the registry, as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Stop it and remove its storage."""
        self.kill()
        shutil.rmtree(self.path)

    def __enter__(self) -> Registry:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def layout(self) -> Layout:
        """A fresh empty layout inside the registry's own temporary directory."""
        self._made += 1
        return Layout(self.path / f"layout-{self._made}")

    def push(
        self,
        layout: Layout,
        descriptor: Mapping[str, Any],
        name: str,
        *,
        credentials: str | None = None,
        docker: bool = False,
    ) -> str:
        """Push one image or index of ``layout`` as ``name`` (``app:1``); returns the full reference.

        With ``docker`` skopeo converts it to Docker's media types; it also does what needs credentials or TLS.
        """
        if not (credentials or docker or self.users or self.auth or self.http):
            repository, _, tag = name.rpartition(":")
            with contextlib.closing(http.client.HTTPConnection(self.address, timeout=60)) as connection:
                Upload(connection, layout, repository).manifest(descriptor, tag)
            return f"{self.address}/{name}"
        layout.name(descriptor, "pushed")
        target = f"docker://{self.address}/{name}"
        command = ["skopeo", "copy", "-q", "--all", "--dest-tls-verify=false"]
        command += ["--format", "v2s2"] if docker else ["--preserve-digests"]
        if credentials or self.users:
            first = next(iter(self.users.items()), ("", ""))
            command += ["--dest-creds", credentials or ":".join(first)]
        command += ["--insecure-policy", f"oci:{layout.path}:pushed", target]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return target.removeprefix("docker://")

    def push_layers(self, name: str, layers: Iterable[bytes], *, docker: bool = False, **options: Any) -> str:
        """Push an image of uncompressed layer tars; ``options`` are those of ``Layout.image``."""
        layout = self.layout()
        return self.push(layout, layout.image(layers, **options), name, docker=docker)

    def push_busybox(
        self, name: str = "busybox:latest", extra: Mapping[str, bytes] | None = None, **config: Any
    ) -> str:
        """Push a busybox image; ``config`` is the image's run config (``Cmd=[...]``, ``Env=[...]``)."""
        run = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **config}
        return self.push_layers(name, [busybox_layer(extra)], config=run)


def _htpasswd(name: str, password: str) -> str:
    command = ["htpasswd", "-nbB", name, password]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
