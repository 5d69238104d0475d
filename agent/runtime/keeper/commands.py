"""Requests by name: what each takes from the packet and whom it asks."""

from __future__ import annotations

import os

from agent.runtime.keeper.execs import Execs
from agent.runtime.keeper.failure import Failure
from agent.runtime.keeper.order import Order
from agent.runtime.keeper.supervisor import Supervisor
from agent.runtime.wire import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.keeper.server import Client, Ticket


class Commands:
    """``handle`` is what the server calls; each ``_do_NAME`` is one request.

    create, run    ``request`` -> pid            states         ``after`` -> states, more
    start, delete  ``id``      -> pid | {}       exec           ``request`` + 3 fds -> exec_id, pid (+ 1 fd)
    kill           ``id signal everyone`` -> {}  resize         ``exec_id rows columns`` -> {}
    subscribe      -> pid                        exec_kill      ``exec_id signal`` -> {}
    upgrade        ``python root`` -> {}         shutdown       -> {}
    reserve        ``request`` -> pid            board          ``request`` (no answer)
    """

    def __init__(self, supervisor: Supervisor, execs: Execs, upgrade: Callable[..., None]) -> None:
        self._supervisor = supervisor
        self._execs = execs
        self._upgrade = upgrade

    def handle(self, name: str, message: dict[str, Any], fds: list[int], ticket: Ticket, client: Client) -> None:
        """Carry out one request. Raises Failure; answers by the ticket, perhaps later."""
        if name == "exec":
            container = self._supervisor.find(message["request"]["id"])
            self._execs.start(container, message["request"], fds, ticket)
        elif name == "subscribe":
            client.subscribed = True
            ticket.answer({"pid": os.getpid()})
        elif name == "reserve":
            supervisor = self._supervisor
            ticket.answer({"pid": supervisor.reserves.make(message["request"], client, supervisor.containers)})
        elif name == "board":
            self._supervisor.reserves.board(message["request"], ticket.packet)
        else:
            action = getattr(self, f"_do_{name}", None)
            if action is None:
                raise Failure("UnknownCommand", f"the keeper knows no {name}")
            action(message, ticket)

    def on_close(self, client: Client) -> None:
        """A connection has ended, and with it what was reserved on it."""
        self._supervisor.reserves.drop_all(client)

    def _do_create(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._supervisor.create(Order(message["request"], ticket.packet), ticket, autostart=False)

    def _do_run(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._supervisor.create(Order(message["request"], ticket.packet), ticket, autostart=True)

    def _do_start(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._supervisor.start(message["id"], ticket)

    def _do_delete(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._supervisor.delete(message["id"], ticket)

    def _do_kill(self, message: dict[str, Any], ticket: Ticket) -> None:
        everyone = bool(message.get("everyone"))
        self._supervisor.kill(message["id"], int(message["signal"]), everyone=everyone)
        ticket.answer({})

    def _do_states(self, message: dict[str, Any], ticket: Ticket) -> None:
        after = str(message.get("after") or "")
        names = sorted(name for name in self._supervisor.containers if name > after)
        page = [self._describe(name) for name in names[:PAGE]]
        ticket.answer({"states": page, "more": len(names) > PAGE})

    def _describe(self, name: str) -> dict[str, Any]:
        return {**self._supervisor.containers[name].describe(), "execs": self._execs.names(name)}

    def _do_resize(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._execs.resize(message["exec_id"], int(message["rows"]), int(message["columns"]))
        ticket.answer({})

    def _do_exec_kill(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._execs.kill(message["exec_id"], int(message["signal"]))
        ticket.answer({})

    def _do_upgrade(self, message: dict[str, Any], ticket: Ticket) -> None:
        self._upgrade(str(message.get("python") or ""), str(message.get("root") or ""), ticket)

    def _do_shutdown(self, _message: dict[str, Any], ticket: Ticket) -> None:
        alive = [one.id for one in self._supervisor.containers.values() if one.exit is None]
        if alive:
            raise Failure("Conflict", f"{len(alive)} containers still run")
        self._supervisor.reserves.drop_all()
        ticket.answer({})
        self._supervisor.loop.stop()
