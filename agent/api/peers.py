"""Who is at the other end of a connection: SO_PEERCRED and SO_PEERPIDFD (unix(7))."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from pathlib import Path

from aiohttp import web

from agent.controller.telling.callers import Caller
from agent.telemetry.redaction import redact_text

COMMAND_LIMIT = 256
_CREDENTIALS = struct.Struct("=iII")
_SO_PEERPIDFD = 77


def is_root_here(request: web.Request) -> bool:
    """Whether the client is root of this host and sees its files: a path that it names is the file that we see."""
    connection = _connection(request)
    if connection is None or connection.family != socket.AF_UNIX:
        return False
    pid, uid = _credentials(connection)
    return uid == 0 and _shares(pid, "mnt") and _shares(pid, "user")


def identify(request: web.Request) -> Caller:
    """Who asks: of the unix socket as the kernel says it, with what the process calls itself now; else the address.

    Blocks for a moment: reading a process's command line takes its memory's lock.
    """
    connection = _connection(request)
    if connection is None:
        return Caller(address="unknown")
    if connection.family != socket.AF_UNIX:
        return Caller(address=str(request.remote or "unknown"))
    pid, uid = _credentials(connection)
    return Caller(uid, pid, _read_command(connection, pid) if pid > 0 else "")


def _connection(request: web.Request) -> socket.socket | None:
    return request.transport.get_extra_info("socket") if request.transport is not None else None


def _credentials(connection: socket.socket) -> tuple[int, int]:
    """The pid, 0 for a process that this host's namespace does not show, and the uid."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid, uid


def _read_command(connection: socket.socket, pid: int) -> str:
    """The command line of the client, else its name; nothing when it has ended and the pid may be another's."""
    text = _read(pid, "cmdline").replace("\0", " ").strip() or _read(pid, "comm").strip()
    return redact_text(text)[:COMMAND_LIMIT] if _still_lives(connection) else ""


def _read(pid: int, name: str) -> str:
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/{name}").open("rb") as file:
        return file.read(4 * COMMAND_LIMIT).decode(errors="replace")
    return ""


def _still_lives(connection: socket.socket) -> bool:
    """Whether the process that connected has not ended; yes where the kernel (before 6.5) cannot say."""
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        return error.errno != errno.ESRCH
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return not poller.poll(0)
    finally:
        os.close(descriptor)


def _shares(pid: int, kind: str) -> bool:
    try:
        return os.path.samestat(Path(f"/proc/{pid}/ns/{kind}").stat(), Path(f"/proc/self/ns/{kind}").stat())
    except OSError:
        return False
