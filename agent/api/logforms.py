"""The two forms of a log answer: JSON lines for programs, frames for speed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.api.failures import describe_error
from agent.api.framing import Channel, encode_frame
from agent.api.ndjson import JsonLines, Stream, encode_lines
from agent.api.port import LogLine
from agent.engine.model import ContainerRecord

FRAME_BYTES = 64 << 10
_STREAMS = {1: "stdout", 2: "stderr"}
Piece = tuple[ContainerRecord, LogLine]


class LogLines(JsonLines):
    """An object a line, with everything that is known of it."""

    def encode_targets(self, names: Sequence[str]) -> bytes:
        """The first line."""
        return encode_lines([{"targets": list(names)}])

    def encode_pieces(self, pieces: Iterable[Piece]) -> bytes:
        """A line a piece."""
        return encode_lines(map(_describe, pieces))


class LogFrames(Stream):
    """Bytes only: what one container wrote to one stream in a row shares frames."""

    content_type = "application/vnd.holdfast.frames"
    _source = ""

    def encode_targets(self, names: Sequence[str]) -> bytes:
        """The first frame."""
        return encode_frame(Channel.TARGETS, json.dumps(list(names)).encode())

    def encode_pieces(self, pieces: Iterable[Piece]) -> bytes:
        """As few frames as the changes of container and stream allow."""
        frames: list[bytes] = []
        run: list[bytes] = []
        channel, size = Channel.STDOUT, 0
        for record, line in pieces:
            wanted = Channel.STDERR if line.stream == Channel.STDERR else Channel.STDOUT
            if run and (record.name != self._source or wanted != channel or size > FRAME_BYTES):
                frames.append(encode_frame(channel, b"".join(run)))
                run, size = [], 0
            if record.name != self._source:
                self._source = record.name
                frames.append(encode_frame(Channel.SOURCE, record.name.encode()))
            channel = wanted
            run.append(line.data)
            size += len(line.data)
        if run:
            frames.append(encode_frame(channel, b"".join(run)))
        return b"".join(frames)

    def encode_end(self, error: Exception | None) -> bytes:
        """EXIT, so that an answer cut short is told from a whole one, or ERROR."""
        if error is None:
            return encode_frame(Channel.EXIT)
        return encode_frame(Channel.ERROR, json.dumps(describe_error(error)).encode())


def _describe(piece: Piece) -> Mapping[str, Any]:
    record, line = piece
    known = {
        "container": record.name,
        "slot": record.config.owner.slot if record.config.owner else 0,
        "stream": _STREAMS.get(line.stream, "stdout"),
        "at": line.at,
    }
    try:
        return {**known, "text": line.data.decode()}
    except UnicodeDecodeError:
        return {**known, "text": line.data.decode("utf-8", "replace"), "bytes": b64encode(line.data).decode()}
