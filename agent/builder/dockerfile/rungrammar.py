"""RUN: its flags, mounts and here-documents to values. Raises SyntaxFault or ExpansionError. Pure."""

from __future__ import annotations

import csv
import re
from types import MappingProxyType

from agent.builder.dockerfile.grammar import Line
from agent.builder.dockerfile.instructions import Command, MountFlag, Run
from agent.builder.dockerfile.lines import Heredoc
from agent.builder.dockerfile.words import SyntaxFault, Word, remove_quotes

SCRIPTS = "/dev/pipes"
_SCRIPT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z", re.ASCII)
NETWORKS = ("default", "none", "host")
_TARGETS = {"target": "target", "dst": "target", "destination": "target"}
_SOURCES = {"source": "source", "src": "source"}
_OWNERS = {"uid": "uid", "gid": "gid", "mode": "mode"}
_READ_ONLY = {"ro": "readonly", "readonly": "readonly"}
_KEYS: dict[str, dict[str, str]] = {
    "bind": {**_TARGETS, **_SOURCES, **_READ_ONLY, "from": "from", "rw": "readwrite", "readwrite": "readwrite"},
    "cache": {
        **_TARGETS, **_SOURCES, **_OWNERS, **_READ_ONLY, "from": "from", "id": "id", "sharing": "sharing",
        "rw": "readwrite", "readwrite": "readwrite",
    },
    "tmpfs": {**_TARGETS, "size": "size"},
    "secret": {**_TARGETS, **_OWNERS, "id": "id", "env": "env", "required": "required"},
    "ssh": {**_TARGETS, **_OWNERS, "id": "id", "required": "required"},
}  # fmt: skip
_TRUTHS = ("readonly", "readwrite", "required")


def parse_run(line: Line) -> Run:
    """``RUN``."""
    flags, rest = line.flags({"network", "security"}, {"mount"})
    security = flags.single.get("security")
    if security is not None and security.text != "sandbox":
        message = f"--security={security.text}: a step runs in the sandbox and gets no more rights"
        raise SyntaxFault(message, security.offset)
    network = flags.single.get("network", Word("", 0))
    if "network" in flags.single and network.text not in NETWORKS:
        raise SyntaxFault(f"--network is one of {', '.join(NETWORKS)}, not {network.text!r}", network.offset)
    mounts = tuple(_parse_mount(line, word) for word in flags.repeated.get("mount", []))
    command = line.command(rest)
    if not command.words:
        raise SyntaxFault("a command is missing", 0)
    if line.line.heredocs and not command.shell:
        raise SyntaxFault("a here-document needs a shell, and the exec form has none", rest)
    command, script = _add_heredocs(line, command, rest)
    return Run(*line.head, command, mounts, network.text, script)


def _add_heredocs(line: Line, command: Command, rest: int) -> tuple[Command, Heredoc | None]:
    """The command with its here-documents, for a shell to read. One alone is the command itself, or a script."""
    heredocs = line.line.heredocs
    if not heredocs:
        return command, None
    (text,) = command.words
    first = heredocs[0]
    if len(text.split()) > 1:
        return Command((text + "\n" + "".join(f"{doc.raw}{doc.name}\n" for doc in heredocs),), shell=True), None
    if not first.text.startswith("#!"):
        return Command((first.text,), shell=True), None
    if not _SCRIPT.match(first.name):
        raise SyntaxFault(f"{first.name[:80]!r} is not a name for a script", rest)
    return Command((f"{SCRIPTS}/{first.name}",), shell=True), first


def _parse_mount(line: Line, word: Word) -> MountFlag:
    pairs: dict[str, str] = {}
    for key, value in _split(line, word):
        if key in pairs:
            raise SyntaxFault(f"--mount: {key} is given twice", word.offset)
        pairs[key] = value
    kind = pairs.pop("type", "bind").lower()
    known = _KEYS.get(kind)
    if known is None:
        raise SyntaxFault(f"--mount: type {kind[:40]!r} is not one of {', '.join(_KEYS)}", word.offset)
    fields: dict[str, str] = {}
    for key, value in pairs.items():
        if key not in known:
            raise SyntaxFault(f"--mount: {kind} has no {key[:40]!r}, only {', '.join(sorted(known))}", word.offset)
        if known[key] in fields:
            raise SyntaxFault(f"--mount: {known[key]} is given twice", word.offset)
        if known[key] in _TRUTHS and value.lower() not in ("true", "false", "1", "0"):
            raise SyntaxFault(f"--mount: {key} is true or false", word.offset)
        fields[known[key]] = line.checked(Word(value, word.offset))
    if "$" in fields.get("from", ""):
        raise SyntaxFault(
            "--mount: variables are not expanded in from; name a stage with FROM $IMAGE AS NAME", word.offset
        )
    origin = fields.pop("from", "")
    return MountFlag(kind, MappingProxyType(fields), origin)


def _split(line: Line, word: Word) -> list[tuple[str, str]]:
    """The fields of one --mount, a list of comma separated values as RFC 4180 has it."""
    try:
        rows = list(csv.reader([remove_quotes(word.text, line.escape)], strict=True))
    except csv.Error as error:
        raise SyntaxFault(f"--mount: {error}", word.offset) from None
    found = []
    for item in rows[0] if rows else []:
        key, equals, value = item.partition("=")
        key = key.strip().lower()
        if not key:
            raise SyntaxFault("--mount: a key is missing", word.offset)
        if not equals and key not in ("ro", "readonly", "rw", "readwrite", "required"):
            raise SyntaxFault(f"--mount: {key[:40]} needs a value", word.offset)
        found.append((key, value if equals else "true"))
    if not found:
        raise SyntaxFault("--mount needs a value", word.offset)
    return found
