"""Stores, archives and layouts for the tests of images in files."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.image.archive.load import Naming
from agent.image.config import RegistryConfig
from agent.image.limits import UnpackLimits
from agent.image.store import ImageStore
from agent.oci.source import LocalImage, parse_local_image
from agent.store.database import Database
from tests.host.registry import HOST_ARCHITECTURE, Layout, digest_of, directory, entry, make_tar

FIRST = make_tar([directory("d"), entry("d/a", b"a" * 70_000), entry("d/old", b"old")])
SECOND = make_tar([entry("d/.wh.old"), entry("d/b", b"b")])
RUN = {"Cmd": ["/bin/true"], "Env": ["A=b"], "Labels": {"l": "1"}}


def open_store(root: Path) -> ImageStore:
    root.mkdir()
    limits = UnpackLimits(ratio_floor=64 << 20)
    return ImageStore(root, Database(root / "holdfast.db"), RegistryConfig(limits=limits))


def tool(*command: str | Path) -> str:
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def local(text: str) -> LocalImage:
    found = parse_local_image(text)
    assert found is not None
    return found


def chunks(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def load(store: ImageStore, data: bytes, *names: str, everything: bool = False) -> Any:
    return store.archives.load(chunks(data), Naming(names, everything))


def save(store: ImageStore, path: Path, *names: str, form: Any = "docker-archive") -> Path:
    path.write_bytes(b"".join(store.archives.save(names, form)))
    return path


def make_layout(path: Path, *layers: bytes, name: str = "", compression: str = "gzip") -> Layout:
    layout = Layout(path)
    layout.name(layout.image(layers or (FIRST, SECOND), compression=compression, config=RUN), name or "one")
    return layout


def pack(path: Path) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for file in sorted(path.rglob("*")):
            archive.add(file, file.relative_to(path), recursive=False)
    return target.getvalue()


def docker_archive(*layers: bytes, tags: Iterable[str] | None = ("shop/web:1",), **more: Any) -> dict[str, bytes]:
    """The files of a docker-archive as docker before version 25 wrote it."""
    document = {
        "architecture": HOST_ARCHITECTURE,
        "os": "linux",
        "config": RUN,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    }
    names = [f"{digest_of(layer)[7:]}/layer.tar" for layer in layers]
    listed = {"Config": "config.json", "RepoTags": list(tags) if tags is not None else None, "Layers": names, **more}
    files = dict(zip(names, layers, strict=True))
    return {**files, "config.json": json.dumps(document).encode(), "manifest.json": json.dumps([listed]).encode()}


def tar_of(files: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return make_tar([*(entry(name, content) for name, content in files.items()), *extra])


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    made: tuple[tarfile.TarInfo, bytes] = entry(name, kind=kind, linkname=target)
    return made


def leftovers(store: ImageStore) -> list[str]:
    found = [path.name for path in (store.content.root / "ingest").iterdir()]
    return found + [path.name for path in store.snapshots.root.iterdir() if not path.name.isdigit()]


def drop(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in files.items() if key != name}


def layer_of(files: dict[str, bytes]) -> str:
    return next(name for name in files if name.endswith("layer.tar"))
