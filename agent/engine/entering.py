"""From what a user wants run in a container to the keeper's request: its own values, but for what is named."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from agent.engine.execs import ExecOptions
from agent.engine.model import ContainerRecord
from agent.errors import Conflict, Refused
from agent.runtime.bundle import read_process
from agent.runtime.imageview import open_container_root
from agent.runtime.protocol import ExecRequest
from agent.runtime.users import Identity, read_identity
from agent.store.layout import RunLayout


class ExecResolver:
    """Makes exec requests. Users are looked up in the files of the running container."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout

    def __call__(self, record: ContainerRecord, args: Sequence[str], options: ExecOptions) -> ExecRequest:
        """Raises Conflict when the container has ended, Stalled for a user it does not know."""
        try:
            process = read_process(self._layout.bundle(record.id))
        except FileNotFoundError:
            raise Conflict(f"{record.name} is gone", reason="NotRunning") from None
        if not args or not args[0]:
            raise Refused("there is no command to run", reason="InvalidRequest", hint="name a program")
        environment = dict(entry.split("=", 1) for entry in process["env"])
        user = process["user"]
        identity = Identity(user["uid"], user["gid"], tuple(user["additionalGids"]), environment.get("HOME", "/"))
        if options.user:
            identity = self._look_up(record, options.user)
            environment["HOME"] = identity.home
        if options.terminal:
            environment.setdefault("TERM", "xterm")
        environment.update(options.env)
        return ExecRequest(
            id=record.id,
            args=tuple(args),
            env=tuple(f"{name}={value}" for name, value in environment.items()),
            cwd=options.cwd or process["cwd"],
            uid=identity.uid,
            gid=identity.gid,
            groups=identity.groups,
            terminal=options.terminal,
            rows=options.rows,
            columns=options.columns,
            exec_id=secrets.token_hex(16),
        )

    def _look_up(self, record: ContainerRecord, user: str) -> Identity:
        try:
            root = open_container_root(record.pid)
        except OSError:
            raise Conflict(f"{record.name} has ended", reason="NotRunning") from None
        try:
            return read_identity(root, user)
        finally:
            os.close(root)
