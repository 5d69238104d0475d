"""The last steps before execve(2): descriptors, limits, filter, identity; and the search for the program.

Law: the same steps for a container's first process and for an exec, in the one order that is safe. Nothing here
imports or opens a path of the host: the root is the container's already.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import os
import resource

from agent.kernel import capabilities as caps
from agent.kernel import process as proc
from agent.kernel.terminals import take_controlling
from agent.runtime.keeper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.keeper.config import ProcessPlan
    from agent.runtime.keeper.report import Reporter

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_FOUND, NOT_EXECUTABLE = "CommandNotFound", "CommandNotExecutable"
_IGNORED_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)
_OOM_SCORE = "/proc/self/oom_score_adj"
_REMEMBERED_NOFILE: list[tuple[int, int]] = []


class Standing:
    """What a child inherits from the keeper, read once at the keeper's start: bounding set and OOM score."""

    __slots__ = ("_oom_score", "bounding")

    def __init__(self) -> None:
        self.bounding = caps.read_bounding()
        self._oom_score = int(proc.read_small_file(_OOM_SCORE, 64))

    def shed(self) -> None:
        """In a child that still sees the host's /proc: take the ordinary OOM score, if the keeper has another."""
        if self._oom_score:
            descriptor = os.open(_OOM_SCORE, os.O_WRONLY | os.O_CLOEXEC)
            os.write(descriptor, b"0")
            os.close(descriptor)


def raise_own_limits() -> None:
    """Let the keeper itself open as many files as it may; what it had before goes to the containers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _REMEMBERED_NOFILE.append((soft, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_stdio(stdin: int, stdout: int, stderr: int) -> None:
    """Make these descriptors 0, 1 and 2."""
    high = [fcntl_dup(descriptor) for descriptor in (stdin, stdout, stderr)]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number, inheritable=True)


def fcntl_dup(descriptor: int) -> int:
    """A duplicate above 2, so that dup2 cannot overwrite a source before it is copied."""
    duplicate = os.dup(descriptor)
    return duplicate if duplicate > 2 else fcntl_dup(duplicate)


def become(process: ProcessPlan, program: bytes | None, standing: Standing, report: Reporter) -> None:
    """Drop everything the process must not have, then run it. Never returns; raises Failure or OSError."""
    report.step = "close descriptors"
    proc.close_all_but(3, report.channel)
    report.step = f"change to directory {process.cwd}"
    check_directory()
    report.step = "reset signals"
    for number in _IGNORED_BY_PYTHON:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.umask(process.umask)
    set_limits(process, report)
    if program is not None and not process.no_new_privileges:
        report.step = "load the seccomp filter"
        proc.load_filter(program)
    set_identity(process, standing, report)
    if process.no_new_privileges:
        report.step = "set no_new_privs"
        proc.set_no_new_privileges()
        if program is not None:
            report.step = "load the seccomp filter"
            proc.load_filter(program)
    report.step = f"exec {process.args[0]}"
    execute(process.args, process.env, report)


def check_directory() -> None:
    """Raises OSError when the working directory is not inside our root (attack row 2)."""
    try:
        os.getcwd()
    except OSError:
        raise OSError(errno.EPERM, "it lies outside of the container's root") from None


def set_limits(process: ProcessPlan, report: Reporter) -> None:
    """Set rlimits; those not named stay as the keeper found its own. Raises Failure when the host forbids one."""
    wanted = {name: (soft, hard) for name, soft, hard in process.rlimits}
    if "RLIMIT_NOFILE" not in wanted and _REMEMBERED_NOFILE:
        resource.setrlimit(resource.RLIMIT_NOFILE, _REMEMBERED_NOFILE[0])
    for name, (soft, hard) in wanted.items():
        report.step = f"set rlimit {name}"
        number = getattr(resource, name, None)
        if number is None or not name.startswith("RLIMIT_"):
            raise Failure("Unsupported", f"{name} is not a limit of this kernel")
        _set_limit(number, name, _limit(soft), _limit(hard))


def _set_limit(number: int, name: str, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except (ValueError, OSError):
        have = resource.getrlimit(number)[1]
        raise Failure(
            "LimitRefused", f"{name} {soft}:{hard} is refused; this host allows at most {have} (no CAP_SYS_RESOURCE)"
        ) from None


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= (1 << 63) - 1 else value


def set_identity(process: ProcessPlan, standing: Standing, report: Reporter) -> None:
    """Capabilities, groups and user. The inheritable set is empty but for what the ambient set needs (row 14)."""
    report.step = "set capabilities"
    caps.drop_bounding(process.bounding, standing.bounding)
    proc.set_keep_capabilities(True)
    report.step = f"become user {process.uid}:{process.gid}"
    os.setgroups(process.groups)
    os.setresgid(process.gid, process.gid, process.gid)
    os.setresuid(process.uid, process.uid, process.uid)
    proc.set_dumpable(False)
    report.step = "set capabilities"
    proc.set_keep_capabilities(False)
    permitted = process.permitted & standing.bounding
    ambient = process.ambient & permitted
    caps.set_capabilities(process.effective & permitted, permitted, ambient)
    caps.set_ambient(ambient)


def take_terminal(terminal: int) -> None:
    """Make ``terminal`` the controlling terminal and the three standard descriptors of this session leader."""
    take_controlling(terminal)
    set_stdio(terminal, terminal, terminal)


def execute(args: list[str], env: list[str], report: Reporter) -> None:
    """execve(2) the first match of the container's own PATH. Raises Failure with reason CommandNot*."""
    name = args[0]
    environment = {key: value for key, separator, value in (entry.partition("=") for entry in env) if separator and key}
    report.launching()
    denied: OSError | None = None
    for candidate in _candidates(name, environment.get("PATH", DEFAULT_PATH)):
        try:
            os.lstat(candidate)  # a fraction of what an execve of nothing costs
            os.execve(candidate, args, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            denied = denied or _missing_interpreter(candidate, error)
        except OSError as error:
            denied = denied or error
            if error.errno not in (errno.EACCES, errno.ENOEXEC):
                break
    if denied is None:
        where = "no such file or directory" if "/" in name else "executable file not found in $PATH"
        raise Failure(NOT_FOUND, f'exec: "{name}": {where}')
    missing = isinstance(denied, FileNotFoundError)
    raise Failure(NOT_FOUND if missing else NOT_EXECUTABLE, f'exec: "{name}": {denied.strerror}')


def _candidates(name: str, path: str) -> list[str]:
    return [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in path.split(":")]


def _missing_interpreter(candidate: str, error: OSError) -> OSError | None:
    try:
        os.lstat(candidate)
    except OSError:
        return None
    return OSError(error.errno, "its interpreter or loader is not there")
