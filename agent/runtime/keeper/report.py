"""The line between a child and the keeper while the child sets itself up: one SOCK_SEQPACKET pair.

child -> keeper   r            set up, waiting (may carry the terminal's master); left out when the go is there already
keeper -> child   b + JSON     to a reserve: the request that tells the root and the network namespace it will have
keeper -> child   o + JSON     to a reserve: the request of the container it is for
keeper -> child   g            go (may be there before the child asks)
child -> keeper   x            about to execve
child -> keeper   e + JSON     failed: reason, message; the child exits
end of file       after x      the execve closed the line: it runs
"""

from __future__ import annotations

import _socket

from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.wire import decode, encode, pack_rights, unpack_rights

READY, GO, LAUNCH, ERROR = b"r", b"g", b"x", b"e"
BOARD, ORDER = b"b", b"o"
MAX_WORD = 64 << 10
_MAX = 4096


class Reporter:
    """The child's end. ``step`` names what is being done, for the error that may come of it."""

    __slots__ = ("_socket", "step")

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self.step = "begin"

    @property
    def channel(self) -> int:
        """The descriptor that must stay open until execve."""
        return self._socket.fileno()

    def close(self) -> None:
        """The keeper's own copy of the child's end, not needed after the fork."""
        self._socket.close()

    def ready(self, terminal: int | None = None) -> None:
        """Say that all is set up, handing over the terminal's master if there is one.

        Without one nothing is said when the go is there already: nobody waits for it then.
        """
        if terminal is not None or not self._is_spoken_to():
            self._socket.sendmsg([READY], pack_rights([] if terminal is None else [terminal]))

    def _is_spoken_to(self) -> bool:
        try:
            self._socket.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def wait_go(self) -> bool:
        """Block until the keeper says go; False when it has died."""
        return self._socket.recv(16) == GO

    def wait_word(self) -> tuple[bytes, bytes]:
        """Block until the keeper says something: its kind and the rest; the kind is empty when it has died."""
        data = self._socket.recv(MAX_WORD)
        return data[:1], data[1:]

    def launching(self) -> None:
        """Say that only execve is left."""
        self._socket.send(LAUNCH)

    def fail(self, error: BaseException) -> None:
        """Say what went wrong in which step."""
        reason = error.reason if isinstance(error, Failure) else "SetupFailed"
        own = isinstance(error, Failure) and error.reason.startswith("Command")
        message = explain(error) if own else f"{self.step}: {explain(error)}"
        self._socket.send(ERROR + encode({"reason": reason, "message": message[: _MAX // 8]}))


class Line:
    """The keeper's end; never blocks."""

    __slots__ = ("_socket", "launching")

    def __init__(self, socket: _socket.socket) -> None:
        socket.setblocking(False)
        self._socket = socket
        self.launching = False

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._socket.fileno()

    def go(self) -> None:
        """Let the child go on. A child that died meanwhile is noticed by its end of file."""
        try:
            self._socket.send(GO)
        except OSError:
            return

    def say(self, kind: bytes, packet: bytes) -> bool:
        """Send a reserve a word with the packet of a request; False when it has gone or the packet is too long."""
        data = kind + packet
        try:
            return len(data) <= MAX_WORD and self._socket.send(data) == len(data)
        except OSError:
            return False

    def receive(self) -> tuple[str, int, Failure | None] | None:
        """``(kind, terminal or -1, failure)`` with kind ready, error or end; None when there is nothing yet."""
        while True:
            try:
                data, rights, _, _ = self._socket.recvmsg(_MAX, 64, _socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # it ended without reading our word; what it said comes next
            except OSError:
                data, rights = b"", []
            if data[:1] == READY:
                return "ready", next(iter(unpack_rights(rights)), -1), None
            if data[:1] == ERROR:
                return "error", -1, _decode_failure(data[1:])
            if data[:1] != LAUNCH:
                return "end", -1, None
            self.launching = True

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def create_line() -> tuple[Line, Reporter]:
    """A fresh pair: the keeper's end and the child's. Raises OSError."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return Line(ours), Reporter(theirs)


def adopt_line(descriptor: int) -> Line:
    """A line that an earlier keeper made in this process, before an upgrade in place."""
    return Line(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor))


def _decode_failure(data: bytes) -> Failure:
    try:
        fields = decode(data)
        return Failure(str(fields["reason"]), str(fields["message"]))
    except (ValueError, KeyError):
        return Failure("SetupFailed", "the set-up failed and could not say why")
