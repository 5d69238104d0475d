"""The agent's side of the name server: takes changes in, hands sockets out.

Law: nothing that comes in here can stop the answering. A packet that makes no sense ends its connection; whoever sent
it connects again and says everything anew.
"""

from __future__ import annotations

import _socket
import os
import struct

from agent import __version__
from agent.kernel.packets import decode, encode, pack_rights, unpack_rights
from agent.network.nameserver.endpoint import close_pair, take_pair
from agent.network.nameserver.protocol import MAX_FDS, MAX_PACKET, PROTOCOL
from agent.network.nameserver.zone import Zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.network.nameserver.endpoint import Pair
    from agent.network.nameserver.loop import Loop
    from agent.network.nameserver.server import NameServer

    Message = dict[str, Any]

_MAX_CLIENTS = 16
_CREDENTIALS = struct.Struct("3i")


class Control:
    """Listens for agents; ``quit`` is called, with whether to drain, when one says so, ``complain`` with faults."""

    def __init__(
        self,
        loop: Loop,
        server: NameServer,
        listener: _socket.socket,
        quit: Callable[[bool], None],
        complain: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.server = server
        self.quit = quit
        self.complain = complain
        self._listener = listener
        self._clients: list[_Client] = []
        listener.setblocking(False)
        loop.watch(listener, self._accept, first=True)

    def _accept(self) -> None:
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        self.add(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor))

    def add(self, stream: _socket.socket) -> None:
        """Serve a connection; anybody but our own user is turned away."""
        credentials = stream.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != os.getuid() or len(self._clients) >= _MAX_CLIENTS:
            stream.close()
            return
        stream.setblocking(False)
        client = _Client(self, stream)
        self._clients.append(client)
        self.loop.watch(stream, client.receive, first=True)

    def remove(self, client: _Client) -> None:
        """A connection has ended; a name server that was told nothing ends with the last one."""
        self._clients.remove(client)
        if not self._clients and not self.server.told:
            self.quit(False)

    def catch_up(self) -> bool:
        """Take in all that has been said until now; whether that was anything."""
        found = False
        for client in tuple(self._clients):
            found |= client.receive()
        return found

    def close(self) -> None:
        """Accept nobody any more; those who are connected stay so."""
        self.loop.forget(self._listener)
        self._listener.close()


class _Client:
    """One connection, with the zone it is saying anew."""

    def __init__(self, control: Control, stream: _socket.socket) -> None:
        self._control = control
        self._stream = stream
        self._zone: Zone | None = None
        self._pairs: dict[str, Pair] = {}
        self._open = True

    def receive(self) -> bool:
        """Take in every packet that is there; whether there was any."""
        found = False
        while self._open and self._receive_one():
            found = True
        return found

    def _receive_one(self) -> bool:
        try:
            data, rights, flags, _ = self._stream.recvmsg(
                MAX_PACKET, _socket.CMSG_SPACE(4 * MAX_FDS), _socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            self._close()
            return False
        descriptors = unpack_rights(rights)
        try:
            if not data or flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                self._close()
                return False
            self._handle(decode(data), descriptors)
        except (LookupError, TypeError, ValueError, OSError) as error:
            self._control.complain(f"a packet from the agent makes no sense: {type(error).__name__}: {error}")
            self._close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        server, what = self._control.server, message["do"]
        if what == "hello":
            gateways = list(server.gateways)
            self._reply({"protocol": PROTOCOL, "version": __version__, "pid": os.getpid(), "gateways": gateways})
        elif what == "hand":
            pair = server.find_pair(message["gateway"])
            self._reply({"gateway": message["gateway"]}, [one.fileno() for one in pair or ()])
        elif what == "begin":
            self._drop_staged()
            self._zone = Zone()
        elif what == "change":
            self._change(message["changes"], descriptors)
        elif what == "commit":
            if self._zone is None:
                raise ValueError("nothing was begun")
            zone, pairs, self._zone, self._pairs = self._zone, self._pairs, None, {}
            server.install(zone, pairs)
            self._reply({"committed": True})
        elif what == "ping":
            self._reply({"pong": message["n"]})
        elif what == "quit":
            self._control.quit(bool(message.get("drain")))
            self._reply({"quitting": True})
        else:
            raise ValueError(f"no such request: {what!r}")

    def _change(self, changes: list[list[Any]], descriptors: list[int]) -> None:
        zone = self._zone if self._zone is not None else self._control.server.zone
        for change in changes:
            zone.apply(change)
            if change[0] == "network" and len(descriptors) == MAX_FDS:
                self._take_sockets(change[2], descriptors)
        if self._zone is None:
            self._control.server.retain()

    def _take_sockets(self, gateway: str, descriptors: list[int]) -> None:
        pair = take_pair(descriptors)
        descriptors.clear()
        if self._zone is None:
            self._control.server.serve(gateway, pair)
        else:
            if gateway in self._pairs:
                close_pair(self._pairs.pop(gateway))
            self._pairs[gateway] = pair

    def _reply(self, message: Message, descriptors: list[int] | None = None) -> None:
        """Only one reply is ever awaited, so a connection that takes none is dead."""
        try:
            self._stream.sendmsg([encode(message)], pack_rights(descriptors or []))
        except OSError:
            self._close()

    def _drop_staged(self) -> None:
        for pair in self._pairs.values():
            close_pair(pair)
        self._zone, self._pairs = None, {}

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._control.loop.forget(self._stream)
            self._stream.close()
            self._drop_staged()
            self._control.remove(self)
