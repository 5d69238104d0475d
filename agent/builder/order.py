"""What a build is asked for, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from agent.builder.limits import MAX_SECRET
from agent.errors import Stalled
from agent.kernel.process import read_small_file
from agent.values import frozen

_EMPTY: Mapping[str, Any] = MappingProxyType({})
DEFAULT_SHM_SIZE = 64 << 20
INLINE = "inline"


@frozen
class SecretSource:
    """Where a secret's bytes come from: ``file`` on the host, else ``value``, which is never shown nor kept."""

    file: str = ""
    value: bytes = field(default=b"", repr=False)


def read_secret(name: str, source: SecretSource) -> bytes:
    """A secret's bytes, at most MAX_SECRET. Raises Stalled, which names the secret and never shows it."""
    if not source.file:
        return source.value
    try:
        return read_small_file(source.file, MAX_SECRET)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or f"it is no file of at most {MAX_SECRET} bytes"
        raise Stalled(f"the secret {name}: {source.file}: {said}", reason="SecretUnreadable") from None


@frozen
class BuildOrder:
    """One image build, complete.

    ``context`` is an absolute directory or a git URL, ``dockerfile`` a path inside of it; a ``dockerfile_inline`` is
    the Dockerfile itself, and ``dockerfile`` then only its name in messages. ``tag`` and ``tags`` are the names that
    the image will get.
    """

    context: str
    tag: str
    dockerfile: str = "Dockerfile"
    dockerfile_inline: str | None = field(default=None, repr=False)
    filtered: bool = False
    """The contexts hold only what is wanted: .dockerignore has been obeyed, and says nothing any more."""
    ignored: str = field(default="", repr=False)
    """What the .dockerignore says by which the build's own context was filtered; for checks only."""
    args: Mapping[str, str] = field(default_factory=lambda: _EMPTY, repr=False)
    """Values for ARG. SOURCE_DATE_EPOCH counts for the image's times also where no ARG declares it."""
    additional_contexts: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Name to absolute directory, git URL or ``docker-image://REFERENCE``."""
    target: str | None = None
    """The stage to build; None: the last."""
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Labels of the image, over those of the Dockerfile."""
    platforms: tuple[str, ...] = ()
    """What to build for; more than this machine's own platform is refused."""
    scope: str = ""
    """The project that the build belongs to: RUN --mount=type=cache is shared inside of it, and with nobody else.
    Without one the image's name, whatever its tag, takes its place."""
    no_cache: bool = False
    """Carry out every step, whatever the layer cache has."""
    pull: bool = False
    """Ask the registry for base images although they are local."""
    cache_from: tuple[str, ...] = ()
    """Absolute directories, written by ``cache_to``, and references of images built with ``inline``, to take layers
    from. What they say is believed, for builds of the same scope only."""
    cache_to: str | None = None
    """An absolute directory to write the layers of this build to; or INLINE: the image says which of its layers are
    those of which step."""
    network: str = "default"
    """Of RUN steps: ``default`` (a bridge with a way out), ``none`` or ``host``."""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    """Further lines of /etc/hosts in RUN steps: name, address."""
    shm_size: int = DEFAULT_SHM_SIZE
    """Bytes of /dev/shm in RUN steps."""
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """Of RUN steps: name, soft, hard (-1: unlimited)."""
    secrets: Mapping[str, SecretSource] = field(default_factory=lambda: _EMPTY)
    """What RUN --mount=type=secret can ask for, by id."""
    ssh: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """What RUN --mount=type=ssh can ask for: id to the absolute path of an ssh agent's socket."""


@frozen
class BuildProgress:
    """One report: ``phase`` is step (one begins), cached or finished (it ended), output, warning or done.

    ``step`` counts from 1 to ``total``, by the place in the file: steps of several stages run at the same time.
    ``stage`` is the stage's name, ``stage-N`` where it has none, empty where it is the only one and has none;
    ``seconds`` is how long a step took.
    """

    phase: str
    text: str
    step: int = 0
    total: int = 0
    stage: str = ""
    seconds: float = 0.0


ProgressCallback = Callable[[Any], None]
