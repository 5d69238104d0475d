"""The packets between keeper and client: one JSON object each, with file descriptors beside it.

Law: imported by the keeper, so it stays as small as ``agent.kernel.packets``.

A request is ``{"seq": n, "do": name, ...}``; its reply ``{"seq": n, "ok": {...}}`` or ``{"seq": n, "error":
{"reason", "message"}}``; an event ``{"event": {...}}``. One packet holds one message of at most MAX_PACKET bytes.
"""

from __future__ import annotations

from agent.kernel.packets import decode as decode
from agent.kernel.packets import encode as encode
from agent.kernel.packets import pack_rights as pack_rights
from agent.kernel.packets import unpack_rights as unpack_rights

SOCKET_NAME = "keeper.sock"
LOCK_NAME = "keeper.lock"
PID_NAME = "keeper.pid"
JOURNAL_NAME = "keeper.log"
STATE_DIRECTORY = "keeper"
STATE_FILE = "state.json"
EXIT_FILE = "exit.json"

MAX_PACKET = 128 << 10
MAX_FDS = 4
PAGE = 256
