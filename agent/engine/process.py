"""What a container's process is, out of the image's wishes and the user's: pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping

from agent.engine.model import ContainerConfig
from agent.errors import Refused, Stalled
from agent.oci.imageconfig import ImageConfig
from agent.values import frozen

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RTMIN, _RTMAX = 34, 64


@frozen
class ResolvedProcess:
    """The process to run: arguments, environment without HOME, working directory, user text, stop signal."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: str
    stop_signal: int


def compute_process(config: ContainerConfig, image: ImageConfig) -> ResolvedProcess:
    """Merge as Docker does: an own entrypoint clears the image's command. Raises Stalled without a command."""
    wanted = config.process
    entrypoint = image.entrypoint or () if wanted.entrypoint is None else wanted.entrypoint
    inherited = (image.cmd or ()) if wanted.entrypoint is None else ()
    args = (*entrypoint, *(inherited if wanted.command is None else wanted.command))
    if not args:
        raise Stalled(
            f"image {config.image_name or config.image} names no command and {config.name} gives none",
            reason="NoCommand",
            hint="set command: or entrypoint:",
        )
    environment = {"PATH": DEFAULT_PATH, "HOSTNAME": config.hostname or config.name}
    if wanted.terminal:
        environment["TERM"] = "xterm"
    environment.update(parse_environment(image.env))
    environment.update(wanted.environment)
    return ResolvedProcess(
        args=args,
        env=environment,
        cwd=_check_directory(wanted.working_dir or image.working_dir or "/"),
        user=wanted.user or image.user,
        stop_signal=parse_signal(wanted.stop_signal or image.stop_signal or "SIGTERM"),
    )


def parse_environment(entries: Iterable[str]) -> dict[str, str]:
    """``NAME=value`` entries of an image; anything else is dropped, never looked up on the host (attack row 23)."""
    pairs = (entry.partition("=") for entry in entries if "\0" not in entry)
    return {name: value for name, separator, value in pairs if name and separator}


def parse_signal(text: str) -> int:
    """``SIGTERM``, ``term``, ``15`` or ``SIGRTMIN+3`` to its number. Raises Stalled."""
    word = text.strip().upper()
    if word.isascii() and word.isdecimal() and 1 <= int(word) <= _RTMAX:
        return int(word)
    word = word.removeprefix("SIG")
    for prefix, start, sign in (("RTMIN", _RTMIN, 1), ("RTMAX", _RTMAX, -1)):
        if word.startswith(prefix):
            return _realtime(text, word.removeprefix(prefix), start, sign)
    try:
        return int(signal.Signals[f"SIG{word}"])
    except KeyError:
        raise Stalled(
            f"{text!r} is not a signal", reason="InvalidSignal", hint="use a name such as SIGTERM or a number 1-64"
        ) from None


def _realtime(text: str, offset: str, start: int, sign: int) -> int:
    digits = offset[1:]
    wrong_sign = offset and offset[0] != ("+" if sign > 0 else "-")
    if offset and (wrong_sign or not digits.isdecimal() or not _RTMIN <= start + sign * int(digits) <= _RTMAX):
        raise Stalled(f"{text!r} is not a signal", reason="InvalidSignal", hint="SIGRTMIN+0 to SIGRTMIN+30")
    return start + sign * int(digits or 0)


def _check_directory(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise Refused(f"working directory {path!r} is not an absolute path", reason="InvalidWorkingDirectory")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if parts[:1] == ["proc"] and len(parts) > 1:
        raise Refused(
            f"working directory {path!r} lies in /proc, where links lead out of the container",
            reason="InvalidWorkingDirectory",
        )
    return path
