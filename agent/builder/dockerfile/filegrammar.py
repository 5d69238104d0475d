"""COPY and ADD: their text to their values. Raises SyntaxFault or ExpansionError. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from agent.builder.dockerfile.grammar import Line
from agent.builder.dockerfile.instructions import Add, Copy
from agent.builder.dockerfile.lines import Heredoc
from agent.builder.dockerfile.modes import BadMode, parse_mode
from agent.builder.dockerfile.words import (
    Flags,
    SyntaxFault,
    Word,
    parse_heredoc_mark,
    parse_list,
    remove_quotes,
    split_words,
)

_SHARED = frozenset({"chown", "chmod", "link", "parents"})
_COPY = _SHARED | {"from"}
_ADD = _SHARED | {"checksum", "unpack", "keep-git-dir"}
_MANY = frozenset({"exclude"})
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}\Z", re.ASCII)
EXPLAIN_GIT = "ADD fetches git repositories over https and http only; give this one as an additional context"
_GIT = re.compile(r"git://|ssh://|git@|git\+", re.ASCII | re.IGNORECASE)


def parse_copy(line: Line) -> Copy:
    """``COPY``, with its sources in words or as a JSON array."""
    flags, rest = line.flags(_COPY, _MANY)
    origin = flags.single.get("from", Word("", 0))
    if "$" in origin.text:
        hint = "name a stage with FROM $IMAGE AS NAME and copy from that"
        raise SyntaxFault(f"variables are not expanded in --from: {hint}", origin.offset)
    return Copy(*line.head, **_take_shared(line, flags, rest), origin=origin.text)


def parse_add(line: Line) -> Add:
    """``ADD``."""
    flags, rest = line.flags(_ADD, _MANY)
    shared = _take_shared(line, flags, rest)
    checksum = flags.single.get("checksum", Word("", 0))
    if checksum.text and "$" not in checksum.text and not is_checksum(checksum.text):
        raise SyntaxFault("--checksum is sha256: and 64 hexadecimal digits", checksum.offset)
    found = Add(
        *line.head,
        **shared,
        checksum=line.checked(checksum) if checksum.text else "",
        unpack=line.truth(flags, "unpack"),
        keep_git=line.truth(flags, "keep-git-dir") or False,
    )
    for source in found.sources:
        if is_git(source) and not is_url(source):
            raise SyntaxFault(f"{source[:200]}: {EXPLAIN_GIT}", 0)
    return found


def is_checksum(text: str) -> bool:
    """Whether this can be the digest of a file."""
    return _CHECKSUM.match(text) is not None


def is_url(source: str) -> bool:
    """Whether ADD downloads this source."""
    return source.lower().startswith(("http://", "https://"))


def is_git(source: str) -> bool:
    """Whether Docker takes this source of ADD for a git repository."""
    if _GIT.match(source):
        return True
    try:
        return is_url(source) and urlsplit(source).path.endswith(".git")
    except ValueError:
        return False


def _take_shared(line: Line, flags: Flags, rest: int) -> dict[str, Any]:
    for name, word in flags.words():
        if not word.text and name not in ("link", "parents", "unpack", "keep-git-dir"):
            raise SyntaxFault(f"--{name} needs a value", word.offset)
    single = flags.single
    owner, mode = (line.checked(single[key]) if key in single else "" for key in ("chown", "chmod"))
    if mode and "$" not in mode:
        try:
            parse_mode(mode)
        except BadMode as error:
            raise SyntaxFault(f"--chmod={mode}: {error}", single["chmod"].offset) from None
    sources, heredocs, destination = _take_paths(line, rest)
    return {
        "sources": sources,
        "destination": destination,
        "owner": owner,
        "mode": mode,
        "link": line.truth(flags, "link") or False,
        "parents": line.truth(flags, "parents") or False,
        "excludes": tuple(
            line.checked(Word(remove_quotes(word.text, line.escape), word.offset))
            for word in flags.repeated.get("exclude", [])
        ),
        "heredocs": heredocs,
    }


def _take_paths(line: Line, rest: int) -> tuple[tuple[str, ...], tuple[Heredoc, ...], str]:
    text = line.line.text
    listed = parse_list(text, rest)
    words = [Word(item, rest) for item in listed] if listed is not None else split_words(text, rest)
    if len(words) < 2 or not all(word.text for word in words):
        raise SyntaxFault("at least one source and a destination are needed", 0)
    marks = [] if listed is not None else [mark for word in words if (mark := parse_heredoc_mark(word))]
    taken = {mark.word for mark in marks}
    if words[-1] in taken:
        raise SyntaxFault("the destination is missing", words[-1].offset)
    if len(marks) != len(line.line.heredocs):
        raise SyntaxFault("a here-document cannot be combined with quotes or an array here", rest)
    for heredoc in line.line.heredocs:
        if heredoc.name in (".", "..") or "/" in heredoc.name or "\0" in heredoc.name or len(heredoc.name) > 255:
            raise SyntaxFault(f"{heredoc.name[:80]!r} is not a name for a file", rest)
    sources = tuple(line.checked(word) for word in words[:-1] if word not in taken)
    return sources, line.line.heredocs, line.checked(words[-1])
