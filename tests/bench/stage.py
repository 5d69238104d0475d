"""Everything that the rows share, made when it is first asked for and taken away at the end."""

from __future__ import annotations

import contextlib
import itertools
from functools import cached_property
from pathlib import Path

from registry import Registry

from agent.engine.engine import Engine
from tests.bench import crun
from tests.bench.marks import Marks
from tests.bench.ours import Holdfast, open_engine
from tests.bench.peers import Docker, Peer, Podman, find_peers


class Stage:
    """One run of the benchmark; ``close`` leaves nothing behind."""

    def __init__(self, base: Path) -> None:
        self._owned = contextlib.ExitStack()
        self.base = base
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._owned.close()

    def fresh(self, prefix: str = "c") -> str:
        """A name that was not used yet."""
        return f"{prefix}{next(self._numbers)}"

    @cached_property
    def registry(self) -> Registry:
        return self._owned.enter_context(Registry(base=self.base))

    @cached_property
    def image(self) -> str:
        """A busybox image in the registry."""
        return self.registry.push_busybox("busybox:1")

    @cached_property
    def agent(self) -> Holdfast:
        agent = Holdfast(self.base)
        agent.start()
        self._owned.callback(agent.clean)
        agent.cli("pull", self.image)
        return agent

    @cached_property
    def engine(self) -> Engine:
        base = self.base / "engine"
        base.mkdir()
        engine = self._owned.enter_context(open_engine(base))
        engine.networks.ensure("bench")
        return engine

    @cached_property
    def engine_image(self) -> str:
        """The id of the busybox image in ``engine``."""
        return self.engine.images.pull(self.image).id

    @cached_property
    def peers(self) -> dict[str, Peer]:
        """docker and podman, where installed, running and with the image."""
        found = find_peers(self.base)
        for peer in found.values():
            self._owned.callback(peer.close)
            peer.start()
            peer.pull(self.image)
        return found

    @property
    def docker(self) -> Docker | None:
        found = self.peers.get("docker")
        return found if isinstance(found, Docker) else None

    @property
    def podman(self) -> Podman | None:
        found = self.peers.get("podman")
        return found if isinstance(found, Podman) else None

    @cached_property
    def crun(self) -> crun.Crun | None:
        if not crun.is_installed():
            return None
        lower = self.engine._parts.images.lowerdirs(self.engine_image)[0]
        bare = crun.Crun(self.base / "crun", lower)
        self._owned.callback(bare.close)
        return bare

    def marks(self) -> Marks:
        """A FIFO of its own."""
        made = Marks(self.base / self.fresh("marks"))
        self._owned.callback(made.close)
        return made

    def versions(self) -> dict[str, str]:
        """Of everything that is measured."""
        found = {"holdfast": Holdfast.version}
        found.update({name: peer.version() for name, peer in self.peers.items()})
        return found
