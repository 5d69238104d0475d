"""What ``RUN --mount`` asks for, with its variables expanded and every value checked. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

from agent.builder.dockerfile.instructions import MountFlag
from agent.builder.dockerfile.origins import Origin
from agent.values import frozen

MAX_MOUNTS = 100
SECRETS, AGENT = "/run/secrets", "/run/buildkit/ssh_agent."
SHARINGS = ("shared", "private", "locked")
_MAX_ID = (1 << 32) - 2
_SIZE = re.compile(r"([0-9]{1,12})([bkmgt]?)(?:i?b)?\Z", re.ASCII | re.IGNORECASE)
_OCTAL = re.compile(r"[0-7]{1,5}\Z", re.ASCII)
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_KERNEL, _SHARED_MEMORY = ("/proc", "/sys", "/dev"), "/dev/shm"


class BadMount(ValueError):
    """A mount that cannot be made."""


@frozen
class Dressing:
    """The owner and permission bits of what is mounted."""

    uid: int
    gid: int
    mode: int


@frozen
class BindMount:
    """Files of a context, a stage or an image. What is written to it, unless ``read_only``, is lost afterwards."""

    target: str
    origin: Origin
    source: str
    read_only: bool = True


@frozen
class CacheMount:
    """A directory that outlives the build; ``origin`` and ``source`` are what it first holds, None for nothing."""

    target: str
    id: str
    sharing: str
    origin: Origin | None
    source: str
    dressing: Dressing
    read_only: bool = False


@frozen
class TmpfsMount:
    """An empty file system in memory; ``size`` in bytes, 0 for the kernel's own limit."""

    target: str
    size: int = 0


@frozen
class SecretMount:
    """A secret as a file, where ``target`` is not empty, and as a variable, where ``env`` is not."""

    id: str
    target: str
    env: str
    required: bool
    dressing: Dressing


@frozen
class SshMount:
    """The socket of an ssh agent."""

    id: str
    target: str
    required: bool
    dressing: Dressing


RunMount = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


def settle_mounts(
    flags: tuple[MountFlag, ...], origins: tuple[Origin | None, ...], expand: Callable[[str], str], cwd: str
) -> tuple[RunMount, ...]:
    """The mounts of one RUN; ``origins`` are where each one's ``from`` leads. Raises BadMount, ExpansionError."""
    if len(flags) > MAX_MOUNTS:
        raise BadMount(f"more than {MAX_MOUNTS} mounts")
    found: list[RunMount] = []
    agents = 0
    for flag, origin in zip(flags, origins, strict=True):
        fields = _Fields({name: expand(value) for name, value in flag.fields.items()}, cwd)
        if flag.type == "ssh":
            found.append(fields.ssh(agents))
            agents += 1
        else:
            found.append(_settle(flag.type, fields, origin))
    targets = [mount.target for mount in found if mount.target]
    for target in targets:
        if targets.count(target) > 1:
            raise BadMount(f"two mounts have the target {target}")
    return tuple(found)


def _settle(kind: str, fields: _Fields, origin: Origin | None) -> RunMount:
    match kind:
        case "cache":
            return fields.cache(origin)
        case "tmpfs":
            return TmpfsMount(fields.target(), fields.size())
        case "secret":
            return fields.secret()
        case _:
            if origin is None:
                raise BadMount("a bind mount needs something to come from")
            return BindMount(fields.target(), origin, fields.source(), not fields.truth("readwrite"))


def _is_below(path: str, *tops: str) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in tops)


class _Fields:
    def __init__(self, fields: Mapping[str, str], cwd: str) -> None:
        self._fields = fields
        self._cwd = cwd
        if fields.get("readonly", "").lower() in ("false", "0"):
            self._fields = {**fields, "readwrite": "true"}

    def truth(self, name: str) -> bool:
        return self._fields.get(name, "").lower() in ("true", "1")

    def text(self, name: str, default: str = "") -> str:
        value = self._fields.get(name, default) or default
        if "\0" in value or len(value) > 4000:
            raise BadMount(f"{name} cannot be used")
        return value

    def target(self, default: str = "") -> str:
        wanted = self.text("target", default)
        if not wanted:
            raise BadMount("target is missing")
        path = posixpath.normpath("/" + posixpath.join(self._cwd, wanted).lstrip("/"))
        if path == "/" or (_is_below(path, *_KERNEL) and not _is_below(path, _SHARED_MEMORY)):
            raise BadMount(f"nothing can be mounted at {path}")
        return path

    def source(self) -> str:
        return posixpath.normpath("/" + self.text("source", "/").lstrip("/"))

    def dressing(self, mode: int) -> Dressing:
        wanted = self.text("mode")
        if wanted and (not _OCTAL.match(wanted) or int(wanted, 8) > 0o7777):
            raise BadMount(f"mode={wanted} is not an octal mode")
        return Dressing(self._number("uid"), self._number("gid"), int(wanted, 8) if wanted else mode)

    def _number(self, name: str) -> int:
        value = self.text(name, "0")
        if not (value.isascii() and value.isdigit()) or len(value) > 10 or int(value) > _MAX_ID:
            raise BadMount(f"{name}={value} is not a number from 0 to {_MAX_ID}")
        return int(value)

    def size(self) -> int:
        value = self.text("size", "0")
        match = _SIZE.match(value)
        if match is None:
            raise BadMount(f"size={value} is not a size such as 64m")
        return int(match[1]) << 10 * "bkmgt".index(match[2].lower() or "b")

    def cache(self, origin: Origin | None) -> CacheMount:
        target, sharing = self.target(), self.text("sharing", "shared").lower()
        if sharing not in SHARINGS:
            raise BadMount(f"sharing={sharing} is not one of {', '.join(SHARINGS)}")
        if origin is None and "source" in self._fields:
            raise BadMount("source needs from: the cache is mounted as a whole")
        read_only = self.truth("readonly")
        identity = self.text("id", target)
        return CacheMount(target, identity, sharing, origin, self.source(), self.dressing(0o755), read_only)

    def secret(self) -> SecretMount:
        identity = self.text("id") or posixpath.basename(self.text("target"))
        env = self.text("env")
        if not identity:
            raise BadMount("a secret needs an id")
        if env and not _ENV.match(env):
            raise BadMount(f"env={env} is not a name for a variable")
        wanted = "" if env and not self.text("target") else self.target(f"{SECRETS}/{identity}")
        return SecretMount(identity, wanted, env, self.truth("required"), self.dressing(0o400))

    def ssh(self, number: int) -> SshMount:
        target = self.target(f"{AGENT}{number}")
        return SshMount(self.text("id", "default"), target, self.truth("required"), self.dressing(0o600))
