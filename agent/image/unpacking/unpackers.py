"""The agent's side of its unpacking processes: one for each large layer that is unpacked at the same time."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from agent.errors import HoldfastError
from agent.image.erofs.metadata import settle_image
from agent.image.errors import (
    ComesTooSlowly,
    DigestMismatch,
    HostileLayer,
    ImagePullFailed,
    InsufficientStorage,
    NeedsMoreRoom,
    StorageFailed,
    UnfitForImage,
    translated_storage_errors,
)
from agent.image.layers.implied import adopt_attributes
from agent.image.layers.layer import Budget, LayerPipeline, Pipeline, check_diff_id, prepend
from agent.image.layers.room import SMALL, TOGETHER, USUAL, WHOLE, Room, Share, compute_share, compute_small_share
from agent.image.layers.undescribed import name_undescribed, read_undescribed
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.unpacking.unpackwire import MAX_ANSWER, Disconnected, Kind, receive, send
from agent.oci.digest import Digest, parse_digest

_BOOT = "import sys; sys.path[:] = {path!r}; from agent.image.unpacking.unpackprocess import main; main({descriptor})"
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 19)}
"""What is large goes back to the kernel when it is free; chunks of data, which come and go, do not (mallopt(3))."""
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **_MALLOC}
_PATIENCE = 1.0
_FAILURES = {
    kind.__name__: kind
    for kind in (DigestMismatch, HostileLayer, InsufficientStorage, NeedsMoreRoom, StorageFailed, UnfitForImage)
}


class Way(IntEnum):
    """Where a layer is unpacked. The next one has more room, for whom NeedsMoreRoom was raised."""

    HERE = 0
    APART = 1
    ALONE = 2


class Unpackers:
    """The processes of an agent, started when they are needed, and the memory that its pulls share. Thread-safe."""

    def __init__(self, limits: UnpackLimits, apart_from: int) -> None:
        self.limits = limits
        self.room = Room(TOGETHER)
        self.small = Room(SMALL)
        self._apart_from = apart_from
        self._lock = threading.Lock()
        self._crews = 0
        self._idle: list[_Unpacker] = []

    def find_way(self, packed: int) -> Way:
        """Where to begin with a layer of ``packed`` bytes."""
        return Way.HERE if packed < self._apart_from else Way.APART

    @contextmanager
    def crew(self) -> Iterator[Crew]:
        """For the length of one pull. Processes end with the last one."""
        with self._lock:
            self._crews += 1
        try:
            yield Crew(self)
        finally:
            with self._lock:
                self._crews -= 1
                last = self._crews == 0
            if last:
                self.end_idle()

    def take(self) -> _Unpacker:
        """A process that waits for a job. Raises ImagePullFailed when none can be started."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return _Unpacker()
        except OSError as error:
            raise ImagePullFailed(f"no process for unpacking can be started: {error.strerror}") from error

    def give_back(self, unpacker: _Unpacker) -> None:
        """It has done its job, and waits for another."""
        with self._lock:
            self._idle.append(unpacker)

    def end_idle(self) -> None:
        """End those that have no job, and their memory with them."""
        with self._lock:
            idle, self._idle = self._idle, []
        for unpacker in idle:
            unpacker.close()


class Crew:
    """What one pull uses of it. Thread-safe."""

    def __init__(self, owner: Unpackers) -> None:
        self.owner = owner
        self._lock = threading.Lock()
        self._aborted = False
        self._working: set[_Unpacker] = set()

    def pipeline(
        self, root: Path, way: Way, budget: Budget | None, image: Path | None = None, *, local: bool = True
    ) -> Pipeline:
        """The way of a layer to ``root``, which must exist and be empty; not HERE to the file ``image`` instead, where
        that is given. It raises NeedsMoreRoom, but for ALONE, and ComesTooSlowly, but for a source that is ``local``.
        """
        if way is Way.HERE:
            return _PipelineHere(self, root, budget, local=local)
        job = _Job(root, image, self.owner.limits)
        return _PipelineApart(self, job, budget, WHOLE if way is Way.ALONE else None, local=local)

    def abort(self) -> None:
        """Make all that is under way fail at once, from any thread."""
        with self._lock:
            self._aborted = True
            for unpacker in self._working:
                unpacker.kill()
        self.owner.room.wake()
        self.owner.small.wake()

    def is_aborted(self) -> bool:
        """Whether the pull was given up."""
        return self._aborted

    @contextmanager
    def process(self, *, alone: bool) -> Iterator[_Unpacker]:
        """A process for one job; ``alone``: others should not keep memory that they do not use, and neither this one
        afterwards. Raises ImagePullFailed after ``abort``, or when none can be started."""
        if alone:
            self.owner.end_idle()
        unpacker = self.owner.take()
        try:
            with self._lock:
                if self._aborted:
                    raise ImagePullFailed("the pull was given up")
                self._working.add(unpacker)
            yield unpacker
        except BaseException:
            unpacker.close()
            raise
        finally:
            with self._lock:
                self._working.discard(unpacker)
        if alone or self._aborted:
            unpacker.close()
        else:
            self.owner.give_back(unpacker)


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
        env=_ENVIRONMENT,
    )


class _Job(NamedTuple):
    """Where a layer goes: to the tree ``root`` or, if there is one, to the file ``image``."""

    root: Path
    image: Path | None
    limits: UnpackLimits

    def encode(self, share: Share) -> bytes:
        image = None if self.image is None else str(self.image)
        limits = share.limit(self.limits)._asdict()
        return json.dumps({"root": str(self.root), "image": image, "limits": limits}).encode()


class _PipelineHere:
    """A short layer within the agent."""

    def __init__(self, crew: Crew, root: Path, budget: Budget | None, *, local: bool) -> None:
        self._crew = crew
        self._root = root
        self._budget = budget
        self._local = local
        self._inner: LayerPipeline | None = None

    @property
    def size(self) -> int:
        return self._inner.size if self._inner is not None else 0

    def settle(self, lower: Sequence[Path]) -> None:
        if self._inner is not None:
            self._inner.settle(lower)

    def run(self, source: Generator[bytes, None, None], diff_id: Digest | None) -> Digest:
        small = self._crew.owner.small
        with closing(source):
            head = next(source, b"")
            share = compute_small_share(head)
            if share is None:
                raise NeedsMoreRoom("the layer's zstd stream needs a large window")
            with small.held(share, self._crew.is_aborted, wait=self._local) as lease:
                self._inner = LayerPipeline(Unpacker(self._root, share.limit(self._crew.owner.limits)), self._budget)
                whole = prepend([head], source)
                return self._inner.run(whole if self._local else small.watched(whole, lease), diff_id)


class _PipelineApart:
    """Feeds one layer to a process."""

    def __init__(self, crew: Crew, job: _Job, budget: Budget | None, share: Share | None, *, local: bool) -> None:
        self._crew = crew
        self._job = job
        self._budget = budget
        self._share = share
        self._local = local
        self._counted = 0
        self.size = 0

    def settle(self, lower: Sequence[Path]) -> None:
        undescribed = name_undescribed(self._job.root)
        if self._job.image is None:
            adopt_attributes(self._job.root, (path for path, _ in read_undescribed(undescribed)), lower)
        else:
            settle_image(self._job.image, read_undescribed(undescribed), lower)
        undescribed.unlink(missing_ok=True)

    def run(self, source: Generator[bytes, None, None], diff_id: Digest | None) -> Digest:
        room = self._crew.owner.room
        with closing(source):
            head = next(source, b"")
            share = self._share or compute_share(head)
            with room.held(share, self._crew.is_aborted, wait=self._local) as lease:
                whole = prepend([head], source)
                with closing(whole if self._local else room.watched(whole, lease)) as watched:
                    return check_diff_id(self._run(watched, share), diff_id)

    def _run(self, source: Generator[bytes, None, None], share: Share) -> Digest:
        try:
            with self._crew.process(alone=share.bytes > USUAL) as unpacker:
                try:
                    return self._feed(unpacker.connection, source, share)
                except Disconnected as error:
                    status = unpacker.close(_PATIENCE)
                    raise ImagePullFailed(
                        f"the process that unpacks the layer ended early, with status {status}"
                    ) from error
        except (UnfitForImage, NeedsMoreRoom, ComesTooSlowly):
            self._count(-self._counted)  # it comes again
            raise

    def _count(self, size: int) -> None:
        self._counted += size
        if self._budget is not None:
            self._budget.count(size)

    def _feed(self, connection: socket.socket, source: Generator[bytes, None, None], share: Share) -> Digest:
        answers = select.poll()
        answers.register(connection, select.POLLIN)
        try:
            send(connection, Kind.JOB, self._job.encode(share))
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
        answer = json.loads(payload)
        if kind is Kind.FAILED:
            raise _recover(answer)
        self.size = int(answer["size"])
        return parse_digest(answer["diff_id"])


def _recover(failure: dict[str, str]) -> HoldfastError:
    kind = _FAILURES.get(failure["error"], ImagePullFailed)
    return kind(failure["message"])
