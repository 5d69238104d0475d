"""The agent's process: from its settings to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from agent import __version__
from agent.api.hostnames import parse_address
from agent.api.hosts import check_host
from agent.api.server import serve
from agent.controller.controller import Controller
from agent.daemon.assembly import Agent, assemble
from agent.daemon.greeting import greet
from agent.daemon.lock import hold_lock
from agent.daemon.room import full_disk_explained
from agent.daemon.tuning import settle, tune
from agent.kernel.process import set_dumpable
from agent.settings import Settings
from agent.source.directory import DirectorySource
from agent.store.layout import DataLayout, RunLayout
from agent.telemetry.logging import get_logger


def run(settings: Settings) -> int:
    """Run an agent until SIGTERM or SIGINT; containers go on. Raises HoldfastError when it cannot start."""
    tune()
    set_dumpable(False)  # its memory holds what was decrypted: a crash must not write that to the disk
    _check_addresses(settings)
    data, runtime = DataLayout(settings.data_root), RunLayout(settings.run_root)
    data.create()
    runtime.create()
    hold_lock(runtime.lock, "the run root")
    hold_lock(data.lock, "the data root")
    data.sweep()
    log = get_logger("agent")
    log.info("holdfast begins", version=__version__, state=str(settings.state), data_root=str(settings.data_root))
    with contextlib.ExitStack() as owned:
        with full_disk_explained(data):
            agent = owned.enter_context(assemble(settings, data))
            agent.engine.start()
        settle()
        agent.events.record("agent", reason="AgentStarted", message=f"holdfast {__version__} started")
        asyncio.run(_serve(settings, agent))
        running = len(agent.engine.containers.list())
        end = "holdfast ended, containers go on" if running else "holdfast ended"
        agent.events.record("agent", reason="AgentEnded", message=end)
        log.info(end, containers=running)
    return 0


def _check_addresses(settings: Settings) -> None:
    """Refuse what nobody can listen on before anything is made."""
    for host in settings.api_hosts:
        check_host(host)
    if settings.metrics is not None:
        parse_address(settings.metrics)


async def _serve(settings: Settings, agent: Agent) -> None:
    """The controller, the API and the greeting, until a signal comes or one of them fails."""
    source = DirectorySource(settings.state, agent.keys)
    agent.controller = Controller(agent.engine, source, agent.events, agent.metrics, agent.database)
    agent.controller.report_targets(agent.notifier.set_apps)
    agent.notifier.start()
    agent.engine.images.collection.ask(agent.controller.needed_images)
    agent.engine.images.watch.report_to(
        lambda reason, message: agent.events.record("image", reason=reason, message=message)
    )
    with _stop_signals() as stopped:
        async with serve(agent, settings.api_hosts, settings.metrics):
            get_logger("agent").info("listening", hosts=list(settings.api_hosts), metrics=settings.metrics or "off")
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(agent.controller.run(), name="controller"),
                    group.create_task(greet(agent.controller, settings), name="greeting"),
                ]
                await stopped.wait()
                for task in tasks:
                    task.cancel()


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
