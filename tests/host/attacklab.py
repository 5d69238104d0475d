"""An engine, a real registry with hostile images in it, and decoys on the host that nothing may touch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from enginelab import EngineLab, open_engine
from registry import Registry, busybox_layer, entry, make_tar

from agent.engine.model import ContainerRecord

SECRET = b"of the host: canary-7c1f\n"


class Decoy:
    """A directory of the host with a file, an empty directory and a FIFO; ``check`` proves that all is as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "empty").mkdir(parents=True)
        (path / "secret").write_bytes(SECRET)
        os.mkfifo(path / "fifo", 0o600)
        self._before = self._look()

    def _look(self) -> dict[str, tuple[Any, ...]]:
        found = {}
        for place in (self.path, *sorted(self.path.rglob("*"))):
            status = place.lstat()
            content = hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else ""
            found[str(place)] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
        return found

    def check(self) -> None:
        assert self._look() == self._before
        assert str(self.path) not in Path("/proc/self/mountinfo").read_text()

    @property
    def by_dots(self) -> str:
        """The decoy from anywhere, by more ``..`` than any path is deep."""
        return "../" * 40 + str(self.path).lstrip("/")


class AttackLab:
    """``lab`` is the engine; ``image`` pulls an image of busybox and ``entries`` upon it through the registry."""

    def __init__(self, lab: EngineLab, registry: Registry) -> None:
        self.lab = lab
        self.registry = registry
        self._base = busybox_layer()
        self._count = 0

    def image(self, entries: Sequence[Any] = (), *, tar: bytes | None = None, **config: Any) -> str:
        """The id of the pulled image; ``config`` is its run config."""
        self._count += 1
        layers = [self._base]
        if entries or tar is not None:
            layers.append(tar if tar is not None else make_tar(entries))
        run = {"Cmd": ["sleep", "86400"], "Env": ["PATH=/bin"], **config}
        reference = self.registry.push_layers(f"hostile:{self._count}", layers, config=run)
        return self.lab.engine.images.pull(reference).id

    @contextmanager
    def running(self, name: str, *command: str, **changes: object) -> Iterator[ContainerRecord]:
        """A container for the length of a block."""
        record = self.lab.start(name, *(command or ("sleep", "86400")), **changes)
        try:
            yield record
        finally:
            self.end(record)

    def end(self, record: ContainerRecord) -> None:
        self.lab.engine.containers.stop(record.id, 0).result(60)
        self.lab.engine.containers.remove(record.id)

    @property
    def leftovers(self) -> set[str]:
        """What exists of containers on disk and in the engine's list."""
        return set(self.lab.on_disk()) | {record.id for record in self.lab.engine.containers.list()}


@contextmanager
def open_attack_lab() -> Iterator[AttackLab]:
    with Registry() as registry, open_engine() as lab:
        yield AttackLab(lab, registry)


def link(name: str, target: str) -> Any:
    """A symlink as an entry of a layer."""
    return entry(name, kind=tarfile.SYMTYPE, mode=0o777, linkname=target)


def compile_static(source: str, directory: Path, *options: str) -> Path:
    """A C program (or, with ``-shared``, a library) of this machine's gcc."""
    if shutil.which("gcc") is None:
        pytest.fail("gcc is missing: apt-get install gcc libc6-dev")
    text, program = directory / "attack.c", directory / "attack"
    text.write_text(source)
    command = ["gcc", "-O1", "-o", str(program), str(text), *(options or ("-static",))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return program
