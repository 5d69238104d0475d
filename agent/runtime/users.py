"""Who a container's process is: USER of an image or a service, looked up in the image's own passwd and group.

Law: digits are an id, never a name; what cannot be understood is an error, never user 0 (attack rows 18 to 21).
Lines of passwd and group that make no sense are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from agent.errors import Refused, Stalled
from agent.oci.digest import render_shortened
from agent.runtime.imageview import read_regular
from agent.values import frozen

MAX_ID = (1 << 31) - 1
MAX_GROUPS = 65536
MAX_FILE = 1 << 20
PASSWD, GROUP = "/etc/passwd", "/etc/group"
_REASON = "InvalidUser"
_FORMS = "USER is a name or an id, optionally with :GROUP, for example app, 1000 or 1000:1000"
_MAX_DIGITS = 10
_PASSWD_FIELDS, _GROUP_FIELDS = 4, 3


@frozen
class Identity:
    """What a process becomes. ``groups`` holds the primary gid too, first; ``home`` is for HOME."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _User(NamedTuple):
    name: bytes
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: bytes
    gid: int
    members: bytes


def read_identity(root_fd: int, text: str) -> Identity:
    """``resolve_user`` with the files inside ``root_fd``. Raises Stalled, also when they are no ordinary files."""
    try:
        passwd = read_regular(root_fd, PASSWD, MAX_FILE)
        group = read_regular(root_fd, GROUP, MAX_FILE)
    except Refused as error:
        raise Stalled(
            f"user {_show(text)} cannot be looked up: {error.message}",
            reason=_REASON,
            hint=f"make {PASSWD} and {GROUP} of the image ordinary files of at most {MAX_FILE >> 20} MiB",
        ) from None
    return resolve_user(text, passwd or b"", group or b"")


def resolve_user(text: str, passwd: bytes, group: bytes) -> Identity:
    """Docker's rules for ``USER[:GROUP]``; empty means user 0.

    An id need not be in passwd (then its group is 0 and its home /), a name must. A group that is given replaces
    the supplementary groups. Raises Stalled with reason InvalidUser.
    """
    wanted, separator, wanted_group = text.partition(":")
    if separator and not (wanted and wanted_group):
        _refuse(text, "has nothing before or after its colon", _FORMS)
    user = _find_user(text, wanted or "0", passwd)
    if separator:
        gid = _find_group(text, wanted_group, group)
        return Identity(user.uid, gid, (gid,), user.home)
    groups = dict.fromkeys((user.gid, *_find_memberships(user.name, group)))
    if len(groups) > MAX_GROUPS:
        _refuse(text, f"is in more than {MAX_GROUPS} groups", f"give the group too, as {user.uid}:{user.gid}")
    return Identity(user.uid, user.gid, tuple(groups), user.home)


def _find_user(text: str, wanted: str, passwd: bytes) -> _User:
    users = _parse_passwd(passwd)
    if _is_number(wanted):
        uid = _parse_id(text, wanted)
        return next((user for user in users if user.uid == uid), _User(b"", uid, 0, "/"))
    name = _encode(text, wanted)
    found = next((user for user in users if user.name == name), None)
    if found is None:
        _refuse(
            text, f"has no valid entry in {PASSWD} of the image", f"add the user to the image or give an id; {_FORMS}"
        )
    return found


def _find_group(text: str, wanted: str, group: bytes) -> int:
    if _is_number(wanted):
        return _parse_id(text, wanted)
    name = _encode(text, wanted)
    found = next((entry for entry in _parse_group(group) if entry.name == name), None)
    if found is None:
        _refuse(text, f"names a group without a valid entry in {GROUP} of the image", f"add it or give an id; {_FORMS}")
    return found.gid


def _find_memberships(name: bytes, group: bytes) -> Iterator[int]:
    if name:
        for entry in _parse_group(group):
            if name in entry.members and name in entry.members.split(b","):
                yield entry.gid


def _parse_passwd(data: bytes) -> Iterator[_User]:
    for fields in _split_lines(data, _PASSWD_FIELDS):
        uid, gid = _decode_id(fields[2]), _decode_id(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, _decode_home(fields[5]) if len(fields) > 5 else "/")


def _parse_group(data: bytes) -> Iterator[_Group]:
    for fields in _split_lines(data, _GROUP_FIELDS):
        gid = _decode_id(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, fields[3] if len(fields) > 3 else b"")


def _split_lines(data: bytes, least: int) -> Iterator[list[bytes]]:
    for line in data.split(b"\n"):
        fields = line.strip().split(b":", 7)
        if len(fields) >= least and fields[0]:
            yield fields


def _decode_id(field: bytes) -> int | None:
    if not field.isdigit() or len(field.lstrip(b"0")) > _MAX_DIGITS:
        return None
    number = int(field.lstrip(b"0") or b"0")
    return number if number <= MAX_ID else None


def _decode_home(field: bytes) -> str:
    try:
        home = field.decode()
    except UnicodeDecodeError:
        return "/"
    return "/" if not home or "\0" in home else home


def _is_number(text: str) -> bool:
    """Whether this can only be meant as an id; a sign counts, so that -1 is not taken for a name."""
    digits = text.lstrip("+-")
    return digits.isascii() and digits.isdigit()


def _parse_id(text: str, number: str) -> int:
    found = _decode_id(number.encode())
    if found is None:
        _refuse(text, f"holds an id outside of 0 to {MAX_ID}", _FORMS)
    return found


def _encode(text: str, name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or encoded != encoded.strip() or any(byte < 0x20 or byte in b":\x7f" for byte in encoded):
        _refuse(text, "holds a character that no name has", _FORMS)
    return encoded


def _refuse(text: str, fault: str, hint: str) -> NoReturn:
    raise Stalled(f"user {_show(text)} {fault}", reason=_REASON, hint=hint)


def _show(text: str) -> str:
    return render_shortened(text, 100)
