"""Steps carried out: what each reads is found, then its layer is in the cache or made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

from agent.builder.cache import compute_key
from agent.builder.dockerfile.steps import CopyOptions, CopyStep, DirectoryStep, RunStep, Step
from agent.builder.files.scan import Wanted
from agent.builder.files.supplies import Files, InlineFiles, RemoteFiles, Supply
from agent.builder.layers import Layers, Made, top_of
from agent.builder.mounting import Mounting
from agent.builder.order import BuildOrder
from agent.builder.patterns.globclasses import BadPattern
from agent.builder.patterns.patterns import IgnoreRules
from agent.builder.reading import Reader
from agent.builder.remote import Downloader
from agent.builder.request import Tools
from agent.builder.run.leaks import find_leak
from agent.builder.run.runner import HOSTNAME, RunOrder, StepEnd
from agent.builder.stop import Stop
from agent.errors import Refused
from agent.image.limits import UnpackLimits
from agent.image.space import check_space
from agent.image.storage.commit import LayerBlob
from agent.values import frozen


class Failure(Protocol):
    """Raises what a command that failed means for the build."""

    def __call__(self, end: StepEnd) -> NoReturn:
        """Never returns."""


@frozen
class Voice:
    """How a step is heard: each line of its output, and that its command failed."""

    say: Callable[[str], None]
    fail: Failure


class Carrier:
    """Carries out the steps of one stage."""

    def __init__(self, tools: Tools, order: BuildOrder, reader: Reader, stop: Stop) -> None:
        self._tools = tools
        self._order = order
        self._reader = reader
        self._stop = stop

    def make(self, step: Step, layers: Layers, voice: Voice) -> Made:
        """The layer of a step upon these layers. Raises what Builder.build does."""
        match step:
            case DirectoryStep():
                return self._tools.maker.make_directory(step, layers, self._stop.check)
            case CopyStep():
                with self._supplied(step) as supplies:
                    return self._tools.maker.copy(step, layers, supplies, self._stop.check)
            case RunStep():
                return self._run(step, layers, voice)

    @contextmanager
    def _supplied(self, step: CopyStep) -> Iterator[list[Supply]]:
        """Everything that a step copies."""
        with ExitStack() as opened:
            supplies: list[Supply] = []
            if step.sources:
                supplies.append(opened.enter_context(self._open_files(step)))
            if step.inline:
                supplies.append(InlineFiles(step.inline))
            if step.remote:
                downloader = Downloader(local=self._order.network == "host", check=self._stop.check)
                spool = opened.enter_context(self._tools.maker.spooled())
                supplies.append(RemoteFiles(step, spool, downloader))
            for reference in step.repositories:
                tree = self._reader.repository(reference)
                supplies.append(Files(tree, ("/",), None, compute_wanted(step.options)))
            yield supplies

    @contextmanager
    def _open_files(self, step: CopyStep) -> Iterator[Files]:
        """The files of a tree; those of finished layers are read only when it is not known what they are."""
        cache, wanted = self._tools.maker.cache, compute_wanted(step.options)
        layers = self._reader.layers(step.origin)
        key, known = "", None
        if layers is not None:
            options = [step.options.parents, list(step.options.excludes)]
            key = compute_key(kind="content", chain=top_of(layers), sources=list(step.sources), options=options)
            known = cache.find_content(key)
        with self._reader.opened(step.origin) as tree:
            files = Files(tree, step.sources, known, wanted, unpack=step.options.unpack is not False)
            yield files
            if key and known is None:
                cache.put_content(key, files.content)

    def _run(self, step: RunStep, layers: Layers, voice: Voice) -> Made:
        maker = self._tools.maker
        mounting = Mounting(step, self._order, self._reader, self._tools.caches)
        key = compute_key(
            kind="run",
            below=top_of(layers),
            args=list(step.args),
            env=sorted(step.env.items()),
            user=step.user,
            cwd=step.cwd,
            hostname=HOSTNAME,
            mounts=mounting.describe(),
            script=repr(step.script),
            step_network=step.network,
            **compute_run_terms(self._order),
        )

        def make() -> LayerBlob:
            with maker.working(layers) as directory:
                with mounting.attached(directory) as attached:
                    run = RunOrder(step, directory, voice.say, self._stop, self._order, attached)
                    end = self._tools.runner.run(run)
                if end.code != 0:
                    check_space(directory.path, 0, UnpackLimits())
                    voice.fail(end)
                _refuse_leak(directory.upper, attached.secrets)
                return maker.commit(directory, layers, self._stop.check)

        return maker.find_or_make(key, make, self._stop.check)


def _refuse_leak(upper: Path, secrets: Mapping[str, bytes]) -> None:
    leak = find_leak(upper, secrets)
    if leak is not None:
        raise Refused(
            f"the step leaves the secret {leak[0]} in {leak[1]}, where everybody who has the image can read it",
            reason="SecretInLayer",
            hint="use it from its mount, and write nothing that holds it",
        )


def compute_wanted(options: CopyOptions) -> Wanted:
    """What of its sources a copy means. Raises Refused."""
    try:
        return Wanted(IgnoreRules(options.excludes), options.parents)
    except BadPattern as error:
        raise Refused(f"--exclude: {error}", reason="InvalidPattern") from None


def compute_run_terms(order: BuildOrder) -> dict[str, object]:
    """What of an order can change what RUN makes: for keys; nothing as long as it asks for nothing special."""
    plain = BuildOrder("", "")
    names = ("network", "extra_hosts", "shm_size", "ulimits")
    found = {name: getattr(order, name) for name in names if getattr(order, name) != getattr(plain, name)}
    return {"terms": found} if found else {}
