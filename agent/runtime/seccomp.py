"""Seccomp filters ready for the keeper: compiled once per profile and capabilities that matter to it, then cached."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from agent.runtime.seccompfilter import compile_profile, read_host, read_version
from agent.runtime.seccompprofile import (
    DEFAULT,
    UNCONFINED,
    Profile,
    compute_relevant,
    parse_profile,
    read_default,
    render_resolved,
    resolve_profile,
)
from agent.store.atomic import write_atomic

_FORM = 2
_REMEMBERED = 64


@lru_cache(maxsize=_REMEMBERED)
def _load_profile(profile: str) -> Profile:
    return parse_profile(read_default() if profile == DEFAULT else profile)


def render_profile(profile: str, capabilities: Collection[str]) -> dict[str, Any] | None:
    """The OCI runtime spec's ``linux.seccomp`` of the same filter; None for no filter. Raises Stalled.

    What it returns is shared with other callers and must not be changed.
    """
    return None if profile == UNCONFINED else _render(profile, frozenset(capabilities))


@lru_cache(maxsize=_REMEMBERED)
def _render(profile: str, capabilities: frozenset[str]) -> dict[str, Any]:
    return render_resolved(resolve_profile(_load_profile(profile), capabilities, read_host()))


class SeccompStore:
    """Compiled filters as files in ``directory``, which must be root's alone. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._paths: dict[tuple[str, frozenset[str]], Path] = {}

    def filter(self, profile: str, capabilities: Collection[str]) -> Path | None:
        """The file of BPF for a process whose bounding set is ``capabilities``; None for no filter.

        ``profile`` is "default", "unconfined" or the JSON text of a profile. Raises Stalled with reason
        InvalidSeccompProfile, and OSError when the file cannot be written.
        """
        if profile == UNCONFINED:
            return None
        parsed = _load_profile(profile)
        key = (profile, compute_relevant(parsed, capabilities))
        path = self._paths.get(key)
        if path is not None and path.exists():
            return path
        with self._lock:
            path = self._write(parsed, profile, key[1])
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            self._paths[key] = path
            return path

    def _write(self, parsed: Profile, profile: str, relevant: frozenset[str]) -> Path:
        path = self._directory / f"{_compute_name(profile, relevant)}.bpf"
        if not path.exists():
            code = compile_profile(resolve_profile(parsed, relevant, read_host()))
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, code)
        return path


def _compute_name(profile: str, relevant: frozenset[str]) -> str:
    """A name that changes with everything the instructions depend on."""
    host = read_host()
    text = read_default() if profile == DEFAULT else profile
    parts = (str(_FORM), read_version(), host.machine, f"{host.kernel[0]}.{host.kernel[1]}", *sorted(relevant), text)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
