"""Which instruction of a Dockerfile a fault belongs to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from agent.builder.dockerfile.instructions import Instruction
from agent.builder.faults import BuildFailed, InvalidDockerfile
from agent.errors import NotFound, Refused, Stalled, Unsupported
from agent.image.errors import ImagePullFailed, InsufficientStorage, RegistryUnreachable

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TEXT_LIMIT = 200


def fail_at(
    file: str, instruction: Instruction, message: str, *, exit_code: int | None = None, output: str = ""
) -> BuildFailed:
    """The error for an instruction of ``file`` that cannot be carried out."""
    return BuildFailed(
        _render(file, instruction, message),
        step=instruction.text,
        place=_locate(file, instruction),
        exit_code=exit_code,
        output=output,
    )


def _locate(file: str, instruction: Instruction) -> str:
    return f"{file}:{instruction.line}:{instruction.column}"


def _render(file: str, instruction: Instruction, message: str) -> str:
    return f"{_locate(file, instruction)}: {instruction.text[:_TEXT_LIMIT]}: {message}"


@contextmanager
def placed(file: str, instruction: Instruction) -> Iterator[None]:
    """Say of every lasting fault, of a full disk, and of every image that cannot be had now, which instruction it
    belongs to; what a change of a context brings about passes."""
    try:
        yield
    except (ImagePullFailed, InsufficientStorage, RegistryUnreachable) as error:
        error.message = _render(file, instruction, error.message)
        raise
    except (BuildFailed, InvalidDockerfile):
        raise
    except (NotFound, Refused, Stalled, Unsupported) as error:
        failed = fail_at(file, instruction, error.message)
        failed.hint = error.hint
        raise failed from error
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise InsufficientStorage(_render(file, instruction, "the disk is full")) from error
        raise fail_at(file, instruction, f"{error.strerror}: {error.filename}") from error
