"""The client's side of an exec: this process's terminal, standard streams and signals joined to the agent."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import termios
import tty
from collections.abc import Iterator, Mapping
from typing import Any

from agent.api.framing import (
    STDIN_WINDOW,
    UPGRADE,
    BrokenFrame,
    Channel,
    FrameDecoder,
    decode_credit,
    encode_frame,
    encode_resize,
)
from agent.cli.client import PREFIX, AgentUnreachable, make_error, open_socket

_CHUNK = 64 << 10
_HEAD_LIMIT = 64 << 10
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FAILED = 125


class Attachment:
    """One exec from request to exit code."""

    def __init__(self, host: str, document: Mapping[str, Any]) -> None:
        self._host = host
        self._document = document
        self._terminal = bool(document["terminal"])
        self._decoder = FrameDecoder()
        self._credit = STDIN_WINDOW
        self._code: int | None = None
        self._stdin_open = bool(document["stdin"])

    def run(self) -> int:
        """Block until the command has ended. Raises AgentUnreachable, AgentError."""
        self._socket = open_socket(self._host)
        with self._socket, _raw_terminal(self._terminal and self._stdin_open), _signals(self._terminal) as wakeup:
            early = self._upgrade()
            self._selector = selectors.PollSelector()
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._selector.register(wakeup, selectors.EVENT_READ)
            self._watch_stdin()
            self._accept(early)
            while self._code is None:
                self._step(wakeup)
            return self._code

    def _step(self, wakeup: socket.socket) -> None:
        for key, _ in self._selector.select():
            if key.fileobj is self._socket:
                self._read_socket()
            elif key.fileobj is wakeup:
                self._pass_signals(wakeup.recv(64))
            elif self._code is None:
                self._read_stdin()

    def _upgrade(self) -> bytes:
        """Ask, and return what came after the answer's head."""
        body = json.dumps(self._document).encode()
        head = (
            f"POST {PREFIX}/exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive() or self._fail()
            if len(received) > _HEAD_LIMIT:
                self._fail()
        answer, _, rest = received.partition(b"\r\n\r\n")
        if answer.split(b" ", 2)[1:2] == [b"101"]:
            return rest
        raise make_error(self._read_error(answer, rest))

    def _read_error(self, answer: bytes, rest: bytes) -> Any:
        lengths = [line.split(b":")[1] for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        wanted = min(int(lengths[0]), _HEAD_LIMIT) if lengths and lengths[0].strip().isdigit() else 0
        while len(rest) < wanted:
            rest += self._receive() or self._fail()
        try:
            return json.loads(rest)
        except ValueError:
            return {"message": answer.split(b"\r\n")[0].decode("latin-1")}

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_CHUNK)
        except OSError:
            return b""

    def _fail(self) -> bytes:
        raise AgentUnreachable(
            "the agent ended the connection", hint="the command was killed; the agent's log says why"
        )

    def _read_socket(self) -> None:
        self._accept(self._receive() or self._fail())

    def _accept(self, data: bytes) -> None:
        try:
            for channel, payload in self._decoder.feed(data):
                self._take(channel, payload)
        except BrokenFrame as error:
            raise AgentUnreachable(f"{self._host} does not answer as an agent ({error})") from None

    def _take(self, channel: Channel, payload: bytes) -> None:
        if channel is Channel.STDOUT:
            _write_all(1, payload)
        elif channel is Channel.STDERR:
            _write_all(2, payload)
        elif channel is Channel.CREDIT:
            self._credit += decode_credit(payload)
            self._watch_stdin()
        elif channel is Channel.EXIT:
            self._code = _compute_code(json.loads(payload))
        elif channel is Channel.ERROR:
            raise make_error(json.loads(payload))

    def _watch_stdin(self) -> None:
        wanted = self._stdin_open and self._credit > 0
        watched = 0 in self._selector.get_map()
        if wanted and not watched:
            self._selector.register(0, selectors.EVENT_READ)
        elif watched and not wanted:
            self._selector.unregister(0)

    def _read_stdin(self) -> None:
        try:
            data = os.read(0, min(_CHUNK, self._credit))
        except OSError:
            data = b""
        self._credit -= len(data)
        self._stdin_open = bool(data)
        self._send(encode_frame(Channel.STDIN, data))
        self._watch_stdin()

    def _pass_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._send(encode_resize(*read_terminal_size()))
            else:
                self._send(encode_frame(Channel.SIGNAL, bytes([number])))

    def _send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # it is ending: what it still has to say is read first
            self._socket.sendall(frame)


def read_terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal this process has; 24 and 80 without one."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.lines and size.columns:
                return size.lines, size.columns
    return 24, 80


def _compute_code(status: Mapping[str, Any]) -> int:
    if status.get("signal"):
        return 128 + int(status["signal"])
    return int(status["code"]) if status.get("code") is not None else _FAILED


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    """Keys go to the command as they are typed; the terminal is put back whatever happens."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSANOW)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals(terminal: bool) -> Iterator[socket.socket]:
    """Signals as bytes to read: those to pass on, and with a terminal its changes of size."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    numbers = (*_PASSED_ON, signal.SIGWINCH) if terminal else _PASSED_ON
    before = {number: signal.signal(number, _ignore) for number in numbers}
    previous = signal.set_wakeup_fd(theirs.fileno())
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def _ignore(_number: int, _frame: object) -> None:
    """The number is read from the wake-up socket."""
