"""Programs of ours that outlive whoever starts them: begun in an interpreter of their own, known by a pid file."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def start_daemon(code: str, journal: int, passed: int, environment: Mapping[str, str] | None = None) -> int:
    """Run Python ``code``, which forks and goes on in the child, without site-packages and in a session of its own.

    It is given the descriptors ``journal``, as its standard error, and ``passed``, and, when there is one, nothing but
    ``environment``. Returns the exit code of the parent. Raises OSError.
    """
    import subprocess

    done = subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-S", "-B", "-X", "utf8", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=journal,
        pass_fds=(passed,),
        start_new_session=True,
        cwd="/",
        env=environment,
        check=False,
    )
    return done.returncode


def write_pid(path: str) -> None:
    """Note our pid for people and monitoring; nothing of ours trusts it. Raises OSError."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.write(descriptor, b"%d\n" % os.getpid())
    os.close(descriptor)
    os.rename(temporary, path)
