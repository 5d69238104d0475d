"""The name server's start and end: give up every right, serve, leave nothing."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import gc
import os
import resource
import sys

from agent.kernel.capabilities import drop_bounding, read_bounding, set_capabilities
from agent.kernel.process import reset_signals, set_dumpable, set_name, set_no_new_privileges
from agent.network.nameserver.control import Control
from agent.network.nameserver.files import RunFiles
from agent.network.nameserver.forward import Forwarder
from agent.network.nameserver.journal import Journal
from agent.network.nameserver.loop import Loop
from agent.network.nameserver.protocol import PROCESS_NAME
from agent.network.nameserver.server import NameServer
from agent.network.nameserver.upstreams import Upstreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

DRAIN_SECONDS = 2.0


def main(options: dict[str, Any]) -> None:
    """Run a name server: ``run_root``, ``client`` (the descriptor of a connection to its agent), ``upstreams``.

    When another one serves the run root this one ends at once. It ends by ``quit`` or SIGTERM.
    """
    set_dumpable(False)
    set_name(PROCESS_NAME)
    _prepare_signals()
    _raise_limits()
    os.umask(0o077)
    files = RunFiles(options["run_root"])
    if not files.claim():
        return
    try:
        loop = _prepare(options, files)
        _give_up_rights()
        gc.collect()
        gc.freeze()
        loop.run()
    finally:
        files.remove()


def _prepare(options: dict[str, Any], files: RunFiles) -> Loop:
    journal = Journal()
    loop = Loop(journal.report)
    server = NameServer(loop)
    fixed = options.get("upstreams")
    upstreams = Upstreams(lambda address: server.zone.is_gateway(address), fixed)
    forwarder = Forwarder(loop, upstreams.servers)

    def quit(drain: bool) -> None:
        """Take no more questions, let another one begin, and end when those passed on have been answered."""
        server.pause()
        control.close()
        files.remove()
        if drain and forwarder.pending:
            forwarder.idle = loop.stop
            loop.call_later(DRAIN_SECONDS, loop.stop)
        else:
            loop.stop()

    control = Control(loop, server, files.listen(), quit, journal.write)
    server.connect(forwarder, control.catch_up)
    control.add(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, options["client"]))
    return loop


def _give_up_rights() -> None:
    """Nothing here needs any: the agent binds the sockets, and the files are our own user's."""
    drop_bounding(0, read_bounding())
    set_capabilities(0, 0, 0)
    set_no_new_privileges()


def _raise_limits() -> None:
    """As many descriptors as may be: clients' connections and questions on their way are bounded by themselves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _prepare_signals() -> None:
    reset_signals()
    for number in (_signal.SIGPIPE, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.signal(_signal.SIGTERM, _end)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
