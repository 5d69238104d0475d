"""The agent's side of its unpacking processes: one for each large layer that is unpacked at the same time."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from agent.errors import HoldfastError
from agent.image.errors import (
    DigestMismatch,
    HostileLayer,
    ImagePullFailed,
    InsufficientStorage,
    StorageFailed,
    UnfitForImage,
    translated_storage_errors,
)
from agent.image.imagemetadata import settle_image
from agent.image.implied import adopt_attributes
from agent.image.layer import Budget, LayerPipeline, Pipeline, check_diff_id
from agent.image.limits import UnpackLimits
from agent.image.unpack import Unpacker
from agent.image.unpackwire import MAX_ANSWER, Disconnected, Kind, receive, send
from agent.oci.digest import Digest, parse_digest

_BOOT = "import sys; sys.path[:] = {path!r}; from agent.image.unpackprocess import main; main({descriptor})"
_PATIENCE = 1.0
_FAILURES = {
    kind.__name__: kind for kind in (DigestMismatch, HostileLayer, InsufficientStorage, StorageFailed, UnfitForImage)
}


class Unpackers:
    """The processes of one pull, started when they are needed. Thread-safe."""

    def __init__(self, limits: UnpackLimits, apart_from: int) -> None:
        self._limits = limits
        self._apart_from = apart_from
        self._lock = threading.Lock()
        self._aborted = False
        self._all: list[_Unpacker] = []
        self._idle: list[_Unpacker] = []

    def pipeline(self, root: Path, packed: int, budget: Budget | None, image: Path | None = None) -> Pipeline:
        """The way of a layer of ``packed`` bytes to ``root``, which must exist and be empty; a large one's to the file
        ``image`` instead, where that is given."""
        if packed < self._apart_from:
            return LayerPipeline(Unpacker(root, self._limits), budget)
        return _PipelineApart(self, _Job(root, image, self._limits), budget)

    def abort(self) -> None:
        """Make all that is under way fail at once, from any thread."""
        with self._lock:
            self._aborted = True
            for unpacker in self._all:
                unpacker.kill()

    def close(self) -> None:
        """End the processes; none may have a job."""
        for unpacker in self._all:
            unpacker.close()

    def take(self) -> _Unpacker:
        """A process that waits for a job. Raises ImagePullFailed after ``abort``, or when none can be started."""
        with self._lock:
            if self._aborted:
                raise ImagePullFailed("the pull was given up")
            if self._idle:
                return self._idle.pop()
            try:
                self._all.append(_Unpacker())
            except OSError as error:
                raise ImagePullFailed(f"no process for unpacking can be started: {error.strerror}") from error
            return self._all[-1]

    def give_back(self, unpacker: _Unpacker) -> None:
        """It has done its job, and waits for another."""
        with self._lock:
            self._idle.append(unpacker)


class _Unpacker:
    """One process, and the connection to it."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _start(theirs.fileno())
        except BaseException:
            self.connection.close()
            raise

    def kill(self) -> None:
        self._process.kill()

    def close(self, patience: float = 0) -> int:
        """End it, when it has not within ``patience`` seconds; returns the exit status."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience)
        self._process.kill()
        return self._process.wait()


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    code = _BOOT.format(path=[str(Path(entry).resolve()) for entry in sys.path], descriptor=descriptor)
    return subprocess.Popen(
        [os.path.realpath(sys.executable), "-I", "-S", "-B", "-X", "utf8", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
    )


class _Job(NamedTuple):
    """Where a layer goes: to the tree ``root`` or, if there is one, to the file ``image``."""

    root: Path
    image: Path | None
    limits: UnpackLimits

    def encode(self) -> bytes:
        image = None if self.image is None else str(self.image)
        return json.dumps({"root": str(self.root), "image": image, "limits": self.limits._asdict()}).encode()


class _PipelineApart:
    """Feeds one layer to a process."""

    def __init__(self, owner: Unpackers, job: _Job, budget: Budget | None) -> None:
        self._owner = owner
        self._job = job
        self._budget = budget
        self._counted = 0
        self._implied: list[bytes] = []
        self._places: list[int] = []
        self.size = 0

    def settle(self, lower: Sequence[Path]) -> None:
        if self._job.image is None:
            adopt_attributes(self._job.root, self._implied, lower)
        else:
            settle_image(self._job.image, dict(zip(self._implied, self._places, strict=True)), lower)

    def run(self, source: Generator[bytes, None, None], diff_id: Digest | None) -> Digest:
        with closing(source):
            unpacker = self._owner.take()
            try:
                actual = self._feed(unpacker.connection, source)
            except Disconnected as error:
                status = unpacker.close(_PATIENCE)
                raise ImagePullFailed(
                    f"the process that unpacks the layer ended early, with status {status}"
                ) from error
            except BaseException as error:
                unpacker.close()
                if isinstance(error, UnfitForImage):
                    self._count(-self._counted)  # it comes again
                raise
            self._owner.give_back(unpacker)
        return check_diff_id(actual, diff_id)

    def _count(self, size: int) -> None:
        self._counted += size
        if self._budget is not None:
            self._budget.count(size)

    def _feed(self, connection: socket.socket, source: Generator[bytes, None, None]) -> Digest:
        answers = select.poll()
        answers.register(connection, select.POLLIN)
        try:
            send(connection, Kind.JOB, self._job.encode())
            with translated_storage_errors():
                for chunk in source:
                    send(connection, Kind.DATA, chunk)
                    if answers.poll(0):
                        self._take_answer(connection)
            send(connection, Kind.END)
        except Disconnected:
            pass  # why, its last answer says
        while (actual := self._take_answer(connection)) is None:
            pass
        return actual

    def _take_answer(self, connection: socket.socket) -> Digest | None:
        """Count what came out; the diff ID once all has. Raises what went wrong there."""
        kind, payload = receive(connection, MAX_ANSWER)
        if kind is Kind.COUNT:
            self._count(int(payload))
            return None
        head, *implied = payload.split(b"\0")
        answer = json.loads(head)
        if kind is Kind.FAILED:
            raise _recover(answer)
        self.size, self._implied, self._places = int(answer["size"]), implied, answer["places"]
        return parse_digest(answer["diff_id"])


def _recover(failure: dict[str, str]) -> HoldfastError:
    kind = _FAILURES.get(failure["error"], ImagePullFailed)
    return kind(failure["message"])
