"""git as a subprocess that obeys nobody but us: no configuration, hook, helper, prompt or variable of the host.

It has time and disk limits, a process group of its own which ends with each command, and speaks only over https, http,
git and ssh (attack row 57). A token reaches it by its environment alone, never by its command line.
"""

from __future__ import annotations

import base64
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import field
from pathlib import Path

from agent.errors import Refused, Stalled, Waiting
from agent.oci.gitreference import GitReference
from agent.values import frozen

PROTOCOLS = "https:http:git:ssh"
_MESSAGE_BYTES = 16 << 10
_POLL_SECONDS, _GRAIN_SECONDS = 0.1, 0.002
_CHUNK = 64 << 10
PROXIES = tuple(
    word for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for word in (name, name.upper())
)
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "core.autocrlf": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",
    "submodule.recurse": "false",
    "protocol.allow": "never",
    **{f"protocol.{name}.allow": "always" for name in PROTOCOLS.split(":")},
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "gc.auto": "0",
    "index.threads": "1",
    "index.skipHash": "false",
    "pack.writeReverseIndex": "false",
    "maintenance.auto": "false",
}
_SSH = (
    "ssh -F /dev/null -a -x -o BatchMode=yes -o StrictHostKeyChecking=yes -o IdentityFile=none -o ProxyCommand=none "
    "-o PermitLocalCommand=no -o ClearAllForwardings=yes -o ControlPath=none -o ConnectTimeout=20"
)


class GitFailed(Waiting):
    """The repository could not be had now: what git said is in the message."""

    reason = "GitFailed"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, retry_after=15.0, hint=hint)


@frozen
class GitAccess:
    """How to prove who we are: a ``token`` for https, the socket of an ssh ``agent``. Neither is shown.

    With ``pinned`` (HOST:PORT:ADDRESS) that address is connected to and no other, and no redirect is followed;
    ``direct`` is without proxies. ``local`` lets submodules come from addresses of this host.
    """

    token: str = field(default="", repr=False)
    agent: str = ""
    pinned: str = ""
    direct: bool = False
    local: bool = False


@frozen
class GitLimits:
    """Bounds on one repository with all its submodules: bytes in .git, bytes and entries of the checkout, submodules
    and how deep they are in each other, seconds for all of those; and ``seconds`` for each command."""

    seconds: float = 300.0
    stored: int = 2 << 30
    bytes: int = 4 << 30
    entries: int = 400_000
    submodules: int = 200
    depth: int = 8
    submodule_seconds: float = 1800.0


class Git:
    """Commands on one repository, whose .git is ``directory`` and whose files go to ``tree``."""

    def __init__(
        self, directory: Path, tree: Path, reference: GitReference, access: GitAccess, limits: GitLimits
    ) -> None:
        self._directory = directory
        self._reference = reference
        self._limits = limits
        self._environment = _compute_environment(directory, tree, reference, access)

    def run(self, *arguments: str, check: Callable[[], None], output: int = 1 << 20) -> bytes:
        """The standard output of ``git ARGUMENTS``, at most ``output`` bytes of it; ``check`` may raise meanwhile.

        Raises GitFailed, Refused beyond a limit, Stalled when the host has no git.
        """
        with self._started(arguments) as process, closing(_Streams(process, output)) as streams:
            begun = measured = time.monotonic()
            while streams.read(_POLL_SECONDS) or (not streams.overflow and _runs(process)):
                check()
                now = time.monotonic()
                if now - begun > self._limits.seconds:
                    raise GitFailed(f"git {arguments[0]} of {self._reference} took over {self._limits.seconds:g} s")
                if now - measured > _POLL_SECONDS:
                    measured = now
                    self._check_size()
        self._check_size()
        if streams.overflow:
            raise Refused(f"{self._reference} has more to list than can be taken", reason="RepositoryTooLarge")
        if process.returncode:
            said = _clean(streams.error) or f"exit code {process.returncode}"
            raise GitFailed(f"git {arguments[0]} of {self._reference}: {said}")
        return bytes(streams.output)

    def measure(self) -> int:
        """The bytes that the repository holds."""
        return _measure(self._directory)

    def _check_size(self) -> None:
        if self.measure() > self._limits.stored:
            limit = f"{self._limits.stored >> 20} MiB"
            left = ", which is what its outer repository leaves to it" if self._reference.role else ""
            raise Refused(f"{self._reference} holds more than {limit}{left}", reason="RepositoryTooLarge")

    @contextmanager
    def _started(self, arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
        try:
            process = subprocess.Popen(
                ("git", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._directory,
                env=self._environment,
                umask=0o022,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise Stalled("a git context needs git", reason="GitMissing", hint="apt-get install git") from None
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


class _Streams:
    """What a command says: its output up to a limit, and the end of its messages."""

    def __init__(self, process: subprocess.Popen[bytes], limit: int) -> None:
        self.output = bytearray()
        self.error = bytearray()
        self.overflow = False
        self._limit = limit
        self._selector = selectors.DefaultSelector()
        for stream, take in ((process.stdout, self._take_output), (process.stderr, self._take_error)):
            assert stream is not None
            self._selector.register(stream, selectors.EVENT_READ, take)

    def read(self, seconds: float) -> bool:
        """Read for a moment; False when both streams have ended or there is too much."""
        if self.overflow or not self._selector.get_map():
            return False
        for key, _ in self._selector.select(seconds):
            data = os.read(key.fd, _CHUNK)
            if data:
                key.data(data)
            else:
                self._selector.unregister(key.fileobj)
        return True

    def close(self) -> None:
        self._selector.close()

    def _take_output(self, data: bytes) -> None:
        self.output += data
        self.overflow = len(self.output) > self._limit

    def _take_error(self, data: bytes) -> None:
        self.error = (self.error + data)[-_MESSAGE_BYTES:]


def _runs(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has not ended; one that has stays unreaped, so that its group is still its own and can be killed."""
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return False
    time.sleep(_GRAIN_SECONDS)
    return True


def _compute_environment(directory: Path, tree: Path, reference: GitReference, access: GitAccess) -> dict[str, str]:
    settings = dict(_SETTINGS)
    if access.token and reference.remote.startswith("https://"):
        packed = base64.b64encode(f"x-access-token:{access.token}".encode()).decode()
        settings[f"http.https://{reference.host}/.extraHeader"] = f"Authorization: Basic {packed}"
        settings["http.followRedirects"] = "false"
    if access.pinned:
        settings |= {"http.followRedirects": "false", "http.curloptResolve": access.pinned}
    agent = f" -o IdentityAgent={access.agent}" if access.agent else " -o IdentityAgent=none"
    environment = {
        "PATH": os.defpath + ":/usr/local/bin",
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "GIT_DIR": str(directory),
        "GIT_WORK_TREE": str(tree),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_SSH_COMMAND": _SSH + agent,
        "GIT_SSH_VARIANT": "ssh",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    environment |= {name: os.environ[name] for name in PROXIES if name in os.environ and not access.direct}
    for number, (name, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return environment


def _measure(directory: Path) -> int:
    """The bytes of the few files that a fetch writes."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(f"{place}/{name}").st_size
            except FileNotFoundError:
                continue
    return total


def _clean(error: bytes | bytearray) -> str:
    """The last lines of what git said, with nothing in it that moves a cursor."""
    lines = bytes(error).decode("utf-8", "replace").splitlines()
    shown = "; ".join(line.strip() for line in lines[-4:] if line.strip())
    return "".join(letter if letter.isprintable() else "?" for letter in shown)[:600]
