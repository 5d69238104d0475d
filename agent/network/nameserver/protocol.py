"""What agent and name server say to each other over ``names.sock``: requests, and replies to some of them.

    {"do": "hello"}                     {"protocol", "version", "pid", "gateways": [...]}
    {"do": "hand", "gateway"}           {"gateway"}, with its two sockets beside it, none when it is not served
    {"do": "begin"}                     (a new zone begins; the old one answers on)
    {"do": "change", "changes": [...]}  (see ``zone``; the sockets of a network's gateway may be beside its change)
    {"do": "commit"}                    {"committed"}: the new zone answers from now on
    {"do": "ping", "n"}                 {"pong": n}: all that was said before is in force
    {"do": "quit", "drain"}             {"quitting"}: another one may begin; the connection ends with the process

Law: ``hello``, ``hand`` and ``quit`` stay as they are for ever: by them an agent replaces a server of any version. A
changed meaning of anything else is a new PROTOCOL.
"""

from __future__ import annotations

PROTOCOL = 1

PROCESS_NAME = "holdfast-names"

SOCKET_NAME = "names.sock"
LOCK_NAME = "names.lock"
PID_NAME = "names.pid"
JOURNAL_NAME = "names.log"

MAX_PACKET = 64 << 10
MAX_FDS = 2
