"""One exec between a client's socket and a process's descriptors: an asyncio protocol that both ends drive.

States grow only: attached -> exited (the rest of the output is drained) -> told (EXIT sent) -> gone. The client
leaving at any point means gone, and the process is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any, cast

from agent.api.descriptors import InputWriter, OutputReader
from agent.api.framing import (
    STDIN_WINDOW,
    BrokenFrame,
    Channel,
    FrameDecoder,
    decode_resize,
    encode_credit,
    encode_frame,
)
from agent.engine.execs import ExecHandle
from agent.engine.model import ExitStatus

WRITE_HIGH = 256 << 10
TERMINAL_DRAIN_SECONDS = 0.25


class ExecSession(asyncio.Protocol):
    """Takes a connection over from HTTP. ``command`` is called for what must go to the engine (resize, signal)."""

    def __init__(self, handle: ExecHandle, terminal: bool, command: Callable[[Channel, Any], None]) -> None:
        self._handle = handle
        self._terminal = terminal
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._before: asyncio.BaseProtocol | None = None
        self._status: ExitStatus | None = None
        self._open = {
            descriptor for descriptor in (handle.stdin_fd, handle.stdout_fd, handle.stderr_fd) if descriptor >= 0
        }
        self._stdin = InputWriter(handle.stdin_fd, self._credit) if handle.stdin_fd >= 0 else None
        self._outputs = [self._reader(handle.stdout_fd, Channel.STDOUT)]
        if handle.stderr_fd not in (-1, handle.stdout_fd):
            self._outputs.append(self._reader(handle.stderr_fd, Channel.STDERR))
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def _reader(self, descriptor: int, channel: Channel) -> OutputReader:
        return OutputReader(descriptor, lambda data: self._send(channel, data), self._tell_when_drained)

    def attach(self, transport: asyncio.Transport) -> None:
        """Begin. The connection's earlier protocol still learns of its end, to clean up after itself."""
        self._transport = transport
        self._before = transport.get_protocol()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        transport.resume_reading()
        for output in self._outputs:
            output.resume()

    def exited(self, status: ExitStatus) -> None:
        """The process has ended."""
        self._status = status
        if self._terminal:
            self._loop.call_later(TERMINAL_DRAIN_SECONDS, self._finish_outputs)
        else:
            self._finish_outputs()
        self._tell_when_drained()

    def _finish_outputs(self) -> None:
        for output in self._outputs:
            output.finish()

    def fail(self, document: dict[str, Any]) -> None:
        """The engine failed: say so and end."""
        self._send(Channel.ERROR, json.dumps(document).encode())
        self._hang_up()

    def _tell_when_drained(self) -> None:
        if self._status is None or not all(output.ended for output in self._outputs):
            return
        status = {"code": self._status.code, "signal": self._status.signal, "oom": self._status.oom}
        self._send(Channel.EXIT, json.dumps(status).encode())
        self._hang_up()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self, channel: Channel, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(channel, payload))

    def _credit(self, count: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_credit(count))

    def pause_writing(self) -> None:
        """The client is slow: the process has to wait."""
        for output in self._outputs:
            output.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        for output in self._outputs:
            output.resume()

    def data_received(self, data: bytes) -> None:
        """Frames from the client."""
        try:
            for channel, payload in self._decoder.feed(data):
                self._accept(channel, payload)
        except BrokenFrame as error:
            self.fail({"reason": "BrokenFrame", "message": str(error), "hint": None})

    def _accept(self, channel: Channel, payload: bytes) -> None:
        if channel is Channel.STDIN:
            self._feed_stdin(payload)
        elif channel is Channel.RESIZE:
            self._command(channel, decode_resize(payload))
        elif channel is Channel.SIGNAL and len(payload) == 1 and 0 < payload[0] < signal.NSIG:
            self._command(channel, payload[0])
        else:
            raise BrokenFrame(f"a client does not send {channel.name} like that")

    def _feed_stdin(self, payload: bytes) -> None:
        if self._stdin is None:
            self._credit(len(payload))
        elif not payload:
            if not self._terminal:
                self._stdin.close_when_written(self._close_stdin)
        elif self._stdin.held + len(payload) > STDIN_WINDOW:
            raise BrokenFrame("more stdin than the window allows")
        else:
            self._stdin.write(payload)

    def _close_stdin(self) -> None:
        self._open.discard(self._handle.stdin_fd)
        os.close(self._handle.stdin_fd)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone, or everything is told."""
        self.dispose()
        if self._before is not None:
            before = cast(asyncio.Protocol, self._before)
            self._before = None
            before.connection_lost(error)

    def end(self) -> None:
        """The server ends it: nothing more is sent or read."""
        if self._transport is not None:
            self._transport.abort()
        self.dispose()

    def dispose(self) -> None:
        """Close the descriptors and forget the client. Idempotent."""
        for output in self._outputs:
            output.end()
        if self._stdin is not None:
            self._stdin.end()
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()
        if not self.gone.done():
            self.gone.set_result(None)
