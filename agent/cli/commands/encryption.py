"""encrypt and decrypt: files of the state directory that a repository may hold. Neither needs an agent."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.agentoptions import identity_option
from agent.cli.declare import argument, command, option, usage_error
from agent.cli.main import DONE
from agent.cli.output import safe
from agent.errors import HoldfastError, Refused

if TYPE_CHECKING:
    from agent.store.identities import Identities

STREAM = "-"
_identity = identity_option("The secret keys of this host; see `holdfast key`.")


@command(short_help="Encrypt files of the state directory for this host.")
@argument("files", nargs=-1, required=True, metavar="FILE...")
@option(
    "-r", "--recipient", "named", metavar="RECIPIENT", multiple=True, help="Another who can decrypt it; repeatable."
)
@option("-R", "--recipients-file", "lists", metavar="FILE", multiple=True, help="Others, one a line; repeatable.")
@option("--only", is_flag=True, help="For those of -r and -R alone, not for this host.")
@option("--rekey", is_flag=True, help="Decrypt first what is encrypted: for a new key, or for others.")
@option("-o", "--output", metavar="FILE", help="Write it there instead, `-` for standard output; with one FILE.")
@_identity
def encrypt(
    files: tuple[str, ...], output: str | None, only: bool, rekey: bool, identity: Path, **others: tuple[str, ...]
) -> int:
    """Encrypt each FILE (`-`: standard input, to standard output) with age for the recipient of this host and others,
    as armored text: what `env_file`, `.env`, the secrets of builds and those of webhooks may be. The agent decrypts it
    in memory, and no command shows a value. What the file was before may still lie on the disk, and in git.

    On a machine without an identity file only -r and -R count. With --rekey name them all again.

    \b
    sudo holdfast encrypt /etc/holdfast/state/shop/app.env
    holdfast encrypt -r age1... -r "$(cat ~/.ssh/id_ed25519.pub)" app.env
    echo "PASSWORD=$PASSWORD" | holdfast encrypt -r age1... -o shop/.env -
    """
    from agent.store.age import encrypt as seal
    from agent.store.identities import parse_recipient

    if (output is not None or STREAM in files) and len(files) > 1:
        raise usage_error("--output and standard input go with one FILE only")
    given = [*others["named"], *_read_lists(others["lists"])]
    if only and not given:
        raise usage_error("--only needs -r or -R")
    own = None if only else _read_own(identity.absolute(), alone=not given)
    texts = list(dict.fromkeys([*(own.recipients[:1] if own is not None else ()), *given]))
    recipients = [parse_recipient(text) for text in texts]
    sealed: dict[str, tuple[bytes, bytes]] = {}
    for file in files:
        with _named(file):
            before = _read(file)
            sealed[file] = before, seal(_take(before, identity.absolute() if rekey else None), recipients)
    for file, (before, data) in sealed.items():
        _warn_of_fewer(file, before, len(recipients))
        _put(output or file, data, before if output is None and file != STREAM else None)
        shown = _show(file if output in (None, STREAM) else output)
        print(f"encrypted {safe(shown)} for {safe(', '.join(texts))}", file=sys.stderr)
    return DONE


@command(short_help="Print what an encrypted file holds.")
@argument("file", metavar="FILE")
@_identity
def decrypt(file: str, identity: Path) -> int:
    """Decrypt FILE (`-`: standard input) with the identities of this host, and print what it holds.

    \b
    sudo holdfast decrypt /etc/holdfast/state/shop/app.env
    """
    with _named(file):
        clear = _open(_read(file), identity.absolute())
    sys.stdout.buffer.write(clear)
    return DONE


def _warn_of_fewer(file: str, before: bytes, count: int) -> None:
    """Whom a file was encrypted for cannot be read in it, only how many they were."""
    from agent.spec.encrypted import is_encrypted
    from agent.store.age import read_stanzas

    known = len(read_stanzas(before)) if is_encrypted(before) else 0
    if known > count:
        print(
            f"{safe(_show(file))} was for {known} recipients: name them with -r again if they need it", file=sys.stderr
        )


def _read_own(identity: Path, *, alone: bool) -> Identities | None:
    """The identities of this host; None when it has none, and there are others to encrypt for. Raises NoIdentity."""
    from agent.store.identities import ClosedIdentity, NoIdentity, read_identities

    try:
        return read_identities(identity)
    except ClosedIdentity:
        raise
    except NoIdentity as error:
        if not alone:
            return None
        raise NoIdentity(error.message, hint="`holdfast key` makes one, or say with -r whom to encrypt for") from None


def _read_lists(lists: Sequence[str]) -> Iterator[str]:
    """The recipients in files as ``age -R`` has them."""
    for file in lists:
        with _named(file):
            lines = _read(file).decode("utf-8", "replace").splitlines()
        yield from (line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _take(data: bytes, identity: Path | None) -> bytes:
    """What is to be encrypted; with an ``identity`` also out of what is encrypted already."""
    from agent.spec.encrypted import is_encrypted

    if not is_encrypted(data):
        return data
    if identity is None:
        raise Refused("is encrypted already", hint="--rekey encrypts it anew")
    return _open(data, identity)


def _open(data: bytes, identity: Path) -> bytes:
    from agent.spec.encrypted import is_encrypted
    from agent.store.hostkeys import HostKeys

    if not is_encrypted(data):
        raise Refused("is not encrypted with age")
    return HostKeys(identity).decrypt(data)


def _read(file: str) -> bytes:
    """What a file or a pipe gives; one that gives nothing yet is waited for."""
    from agent.store.age import SIZE_LIMIT

    with nullcontext(sys.stdin.buffer) if file == STREAM else Path(file).open("rb") as stream:
        data = stream.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise Refused(f"is longer than {SIZE_LIMIT >> 20} MiB")
    return data


def _put(file: str, data: bytes, before: bytes | None) -> None:
    """Replace a file in one step; one that was there keeps owner and mode, and symbolic links to it stay. ``before`` is
    what it must still hold, if that counts."""
    from agent.store.atomic import write_atomic

    if file == STREAM:
        sys.stdout.buffer.write(data)
        return
    with _named(file):
        path = _find_place(file)
        status = path.stat() if path.exists() else None
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise Refused("is not a file", hint="give what it says as `-`, on standard input, or name another --output")
        if before is not None:
            _check_same(path, before)
        write_atomic(path, data, 0o600 if status is not None else 0o644, like=status)
    if before is not None and status is not None and status.st_nlink > 1:
        print(f"{safe(file)} has other names (hard links): under those it is what it was", file=sys.stderr)


def _find_place(file: str) -> Path:
    """The file that is meant. One who may make links in a directory is not to choose what root replaces elsewhere.
    Raises Refused."""
    path = Path(file).resolve()
    if not path.is_relative_to(Path(file).parent.resolve()):
        raise Refused(f"is a link to {path}", hint="name that file itself if it is meant")
    return path


def _check_same(path: Path, before: bytes) -> None:
    """See that nothing is lost when a file is replaced. Raises Refused."""
    from agent.source.reader import is_being_written

    with path.open("rb") as file:
        if is_being_written(file.fileno()) or file.read(len(before) + 1) != before:
            raise Refused("is being written or has changed meanwhile: it was left alone", hint="encrypt it again")


def _show(file: str) -> str:
    return "the input" if file == STREAM else file


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Errors of this block say which file they are of. Raises Refused."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{_show(file)}: {error.strerror}") from None
    except HoldfastError as error:
        raise Refused(f"{_show(file)} {error.message}", reason=error.reason, hint=error.hint) from None
