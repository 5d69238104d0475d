"""The agent's own notify file: who is told of all apps. Read again when it, or a secret that it names, has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.errors import InvalidSpec, Refused
from agent.spec.decode import decode_text
from agent.spec.fields import Fields
from agent.spec.keys import NOTIFY_FILE
from agent.spec.model import NotifyTarget
from agent.spec.notify import read_targets
from agent.spec.parse import parse_yaml
from agent.spec.reading import Files, Reading
from agent.spec.tree import Problems
from agent.store.ownfiles import FileStamp, read_bounded, stamp_file
from agent.telemetry.logging import get_logger

FILE_LIMIT = 1 << 20


class NotifyFile:
    """Used by one thread. ``path`` None: there is none; one that is not ``required`` may be absent."""

    def __init__(self, path: Path | None, environment: Mapping[str, str], *, required: bool = True) -> None:
        self._path = path
        self._environment = environment
        self._required = required
        self._stamps: dict[Path, FileStamp] = {}
        self._targets: tuple[NotifyTarget, ...] = ()
        self._log = get_logger("notify")

    def check(self) -> None:
        """Read it now. Raises InvalidSpec with every problem."""
        if self._path is not None:
            self._targets = self._read(self._path)

    def current(self) -> tuple[NotifyTarget, ...]:
        """The targets now; while the file is wrong those of before."""
        if self._path is not None and any(stamp_file(path) != stamp for path, stamp in self._stamps.items()):
            try:
                self.check()
            except InvalidSpec as error:
                self._log.error("the notify file cannot be used, what it said before stays", error=str(error))
        return self._targets

    def _read(self, path: Path) -> tuple[NotifyTarget, ...]:
        stamps = {path: stamp_file(path)}
        self._stamps = stamps
        if not stamps[path] and not self._required:
            return ()

        def text_of(found: Path) -> bytes:
            stamps[found] = stamp_file(found)
            return read_bounded(found, FILE_LIMIT)

        problems = Problems(str(path))
        targets: list[NotifyTarget] = []
        try:
            text = decode_text(text_of(path), problems)
            tree = parse_yaml(text, problems) if text is not None else None
        except (OSError, Refused) as error:
            problems.add(None, str(getattr(error, "strerror", None) or error))
            tree = None
        if tree is not None:
            files = Files(path.parent, Path("/"), text_of, lambda _path, or_file=False: None)
            top = Fields(Reading(problems, files, self._environment), tree, "", NOTIFY_FILE)
            targets = read_targets(top, own=True)
        if problems.found:
            raise InvalidSpec(list(problems.found))
        return tuple(targets)
