"""The pull of an image of one gzip layer of 100 MB from a registry on this machine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from registry import Registry, directory, entry, make_tar

from tests.bench.command import time_command
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.stage import Stage

ROUNDS = 3
COMPRESSED = 100_000_000
_TEXT_SHARE = 0.62
_SOURCES = (Path("/usr/lib"), Path("/usr/bin"), Path("/usr/share"))
_LARGEST = 8 << 20


def measure(stage: Stage) -> Sequence[Row]:
    names = [HOLDFAST, *stage.peers]
    references = _push_images(stage.registry, ROUNDS)
    queues = {name: itertools.cycle(references) for name in names}
    contenders: dict[str, Callable[[], float]] = {
        HOLDFAST: lambda: time_command(stage.agent.command("pull", next(queues[HOLDFAST])))
    }
    for name, peer in stage.peers.items():
        extra = ["--tls-verify=false"] if name == "podman" else []
        contenders[name] = lambda peer=peer, name=name, extra=extra: time_command(  # type: ignore[misc]
            [*peer.cli, "pull", "-q", *extra, next(queues[name])]
        )
    samples, failures = interleave(ROUNDS, contenders)
    return [Row("pull of a 100 MB layer", "ms", samples, Budget(2, "docker"), failures)]


def _push_images(registry: Registry, count: int) -> list[str]:
    """Images of the same files, each with one of its own in front, so that none shares a layer with another."""
    entries = [directory("data"), *_collect_files()]
    found = []
    for number in range(count):
        own = entry("data/own", os.urandom(64))
        found.append(registry.push_layers(f"large:{number}", [make_tar([entries[0], own, *entries[1:]])]))
    return found


def _collect_files() -> Iterator[object]:
    """Files of this machine, as images have them, until they come to about 100 MB when compressed; should it have too
    few, bytes that do not compress."""
    left, number = COMPRESSED / (1 - _TEXT_SHARE), 0
    for path in _walk():
        if left <= 0:
            return
        data = path.read_bytes()
        number += 1
        left -= len(data)
        yield entry(f"data/{number}", data, mode=0o755 if os.access(path, os.X_OK) else 0o644)
    while left > 0:
        number += 1
        yield entry(f"data/{number}", os.urandom(4 << 20))
        left -= (4 << 20) / (1 - _TEXT_SHARE)


def _walk() -> Iterator[Path]:
    for source in _SOURCES:
        for place, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = Path(place, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
                    yield path
