"""What an instruction wants done to the file system, with everything expanded. Pure values."""

from __future__ import annotations

from collections.abc import Mapping

from agent.builder.dockerfile.modes import Mode
from agent.builder.dockerfile.mountspec import BindMount, CacheMount, RunMount
from agent.builder.dockerfile.origins import Origin
from agent.oci.gitreference import GitReference
from agent.values import frozen


@frozen
class Script:
    """A file that a command runs: a here-document that begins with ``#!``."""

    name: str
    content: bytes


@frozen
class RunStep:
    """A command to run; ``proxies`` are variables that do not tell one result from another."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    proxies: Mapping[str, str]
    user: str
    cwd: str
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    script: Script | None = None

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where its mounts come from."""
        read = [mount.origin for mount in self.mounts if isinstance(mount, BindMount | CacheMount)]
        return tuple(origin for origin in read if origin is not None)


@frozen
class InlineFile:
    """A file that stands in the Dockerfile."""

    name: str
    content: bytes


@frozen
class RemoteFile:
    """A file to download; ``checksum`` is its digest, where the Dockerfile says it."""

    url: str
    checksum: str = ""


@frozen
class CopyOptions:
    """How files are copied: into an image that has nothing yet (``link``), with the directories above them
    (``parents``), without what the patterns of ``excludes`` match, and archives unpacked or not.

    ``unpack`` None: those of the context are, as ADD does; COPY has False.
    """

    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    unpack: bool | None = False


@frozen
class CopyStep:
    """Files to copy; ``destination`` is absolute and keeps its trailing slash, ``mode`` None keeps each file's own."""

    origin: Origin
    sources: tuple[str, ...]
    destination: str
    owner: str
    mode: Mode | None
    options: CopyOptions = CopyOptions()
    inline: tuple[InlineFile, ...] = ()
    remote: tuple[RemoteFile, ...] = ()
    repositories: tuple[GitReference, ...] = ()
    """Git repositories to fetch."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where its files come from."""
        return (self.origin,)


@frozen
class DirectoryStep:
    """A working directory that has to be there; one that is made belongs to ``user``, root where that is empty."""

    path: str
    user: str = ""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Nowhere."""
        return ()


Step = RunStep | CopyStep | DirectoryStep
