"""Mounts as descriptors: made detached, configured, then attached (open_tree(2), fsopen(2), move_mount(2)).

A mount that is attached to a descriptor cannot be led astray by a symlink that somebody swaps in meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import struct

from agent.kernel.syscalls import libc, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

ATTR_RDONLY = 0x01
ATTR_NOSUID = 0x02
ATTR_NODEV = 0x04
ATTR_NOEXEC = 0x08
ATTR_ATIME = 0x70
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_NOSYMFOLLOW = 0x200000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 2

_OPEN_TREE_CLONE = 1
_CLOEXEC = os.O_CLOEXEC
_MOVE_EMPTY_SOURCE = 0x04
_MOVE_EMPTY_TARGET = 0x40
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_ATTR = struct.Struct("=QQQQ")

_int, _uint, _text, _size = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_size_t
_mount = libc("mount", _text, _text, _text, ctypes.c_ulong, _text)
_umount2 = libc("umount2", _text, _int)
_pivot_root = syscall("pivot_root", _text, _text)
_open_tree = syscall("open_tree", _int, _text, _uint)
_move_mount = syscall("move_mount", _int, _text, _int, _text, _uint)
_mount_setattr = syscall("mount_setattr", _int, _text, _uint, _text, _size)
_fsopen = syscall("fsopen", _text, _uint)
_fsconfig = syscall("fsconfig", _int, _uint, _text, _text, _int)
_fsmount = syscall("fsmount", _int, _uint, _uint)


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). ``data`` must be shorter than a page."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    _mount(encoded[0], encoded[1], encoded[2], flags, encoded[3])


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _umount2(os.fsencode(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _pivot_root(os.fsencode(new_root), os.fsencode(put_old))


def clone_mount(path: str, *, directory: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at ``path`` (empty: of ``directory`` itself), as a descriptor."""
    flags = _OPEN_TREE_CLONE | _CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return _open_tree(directory, os.fsencode(path), flags)


def attach_mount(descriptor: int, target: int) -> None:
    """Attach the detached mount ``descriptor`` on what the descriptor ``target`` refers to."""
    _move_mount(descriptor, b"", target, b"", _MOVE_EMPTY_SOURCE | _MOVE_EMPTY_TARGET)


def set_attributes(
    descriptor: int, on: int = 0, off: int = 0, *, propagation: int = 0, recursive: bool = False
) -> None:
    """Switch ATTR_ flags of the mount ``descriptor``, and set its propagation (one of MS_PRIVATE, MS_SLAVE, ...)."""
    attributes = _ATTR.pack(on, off, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _mount_setattr(descriptor, b"", flags, attributes, len(attributes))


def escape_option(value: str, special: str) -> str:
    """A value as an option of a mount takes it: characters that would end or part it are escaped."""
    for character in "\\" + special:
        value = value.replace(character, "\\" + character)
    return value


def create_filesystem(
    fstype: str, options: Iterable[tuple[str, str | None]], attributes: int, source: str | None = None
) -> int:
    """A new filesystem instance as a detached mount. An option without a value is a flag.

    Raises OSError; its text holds what the kernel says of a bad option.
    """
    context = _fsopen(fstype.encode(), 1)
    try:
        if source is not None:
            _fsconfig(context, _SET_STRING, b"source", os.fsencode(source), 0)
        for key, value in options:
            if value is None:
                _fsconfig(context, _SET_FLAG, key.encode(), None, 0)
            else:
                _fsconfig(context, _SET_STRING, key.encode(), os.fsencode(value), 0)
        _fsconfig(context, _CREATE, None, None, 0)
        return _fsmount(context, 1, attributes)
    except OSError as error:
        raise OSError(error.errno, _read_complaint(context) or error.strerror) from None
    finally:
        os.close(context)


def _read_complaint(context: int) -> str:
    try:
        return os.read(context, 512).decode("utf-8", "replace").strip().removeprefix("e ")
    except OSError:
        return ""
