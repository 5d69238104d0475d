"""Bytes to text: UTF-8 without control characters, or a problem that says where and what it looks like instead."""

from __future__ import annotations

import re

from agent.spec.tree import Mark, Problems

SIZE_LIMIT = 1 << 20
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def decode_text(data: bytes, problems: Problems, file: str | None = None, *, encrypted: bool = False) -> str | None:
    """The text of a file, without a byte order mark; None when it is not text, after noting why. What an ``encrypted``
    file has in the wrong place is not shown."""
    if len(data) > SIZE_LIMIT:
        problems.add(None, f"the file is larger than {SIZE_LIMIT >> 20} MiB", file)
        return None
    for mark, name in _MARKS:
        if data.startswith(mark):
            problems.add(None, f"the file is {name}: save it as UTF-8", file)
            return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = locate(data[: error.start].decode("utf-8", "replace"))
        found = "a byte" if encrypted else f"byte 0x{data[error.start]:02x}"
        problems.add(where, f"{found} is not UTF-8: save the file as UTF-8", file)
        return None
    text = text.removeprefix("\ufeff")
    control = _UNPRINTABLE.search(text)
    if control:
        character = ord(control.group())
        guess = "is this UTF-16 or a binary file?" if character == 0 else "only text is allowed here"
        shown = "a control character" if encrypted else f"control character U+{character:04X}"
        problems.add(locate(text[: control.start()]), f"{shown}: {guess}", file)
        return None
    return text


def locate(before: str) -> Mark:
    """The place just after a text."""
    line, start = 1, 0
    for found in _BREAK.finditer(before):
        line, start = line + 1, found.end()
    return Mark(line, len(before) - start + 1)
