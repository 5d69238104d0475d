"""A newcomer's way: every command of README.md, as it stands there, in a copy of this checkout."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from agents import ROOT, eventually

from agent.cli.group import cli

pytestmark = pytest.mark.host

DEFAULT_ROOTS = (Path("/run/holdfast"), Path("/var/lib/holdfast"), Path("/etc/holdfast"))
LOCKS = (DEFAULT_ROOTS[0] / "agent.lock", DEFAULT_ROOTS[0] / "keeper.lock")
SET_UP = "make run"
INSTALLED_FROM = ("pyproject.toml", "Makefile", ".ci/debian-packages")
OF_ITS_OWN = {"make test"}  # this very run


def read_blocks() -> list[list[str]]:
    """The commands of each ``sh`` block, comments cut."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [[line.split("  #")[0].strip() for line in block.splitlines() if line.strip()] for block in blocks]


def is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def fresh_default_roots(home: Path) -> Iterator[tuple[str, ...]]:
    """The default roots, empty ones of ``home``, in a mount namespace of its own: what an agent that has ended left on
    this machine stays as it is. Gives the beginning of a command line that enters the namespace."""
    taken = [str(path) for path in LOCKS if is_locked(path)]
    assert not taken, f"an agent of this machine holds {', '.join(taken)}: this test needs its addresses and ports"
    made = [path for path in DEFAULT_ROOTS if not path.exists()]
    mounts = []
    for path in DEFAULT_ROOTS:
        path.mkdir(parents=True, exist_ok=True)
        (home / path.relative_to("/")).mkdir(parents=True)
        mounts.append(f"mount --bind {home / path.relative_to('/')} {path}")
    keep = ["unshare", "--mount", "sh", "-c", f"{' && '.join(mounts)} && echo ready && exec cat"]
    try:
        with subprocess.Popen(keep, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as namespace:
            assert namespace.stdin is not None and namespace.stdout is not None
            try:
                assert namespace.stdout.readline() == b"ready\n"
                yield ("nsenter", f"--mount=/proc/{namespace.pid}/ns/mnt")
            finally:
                namespace.stdin.close()
    finally:
        for path in made:
            path.rmdir()


class Newcomer:
    """A checkout of one's own, the agent in its foreground, and a shell beside it."""

    def __init__(self, home: Path, outside: Path, enter: tuple[str, ...]) -> None:
        self.home = home
        self.enter = enter
        self.socket = outside / "run/holdfast/holdfast.sock"
        self.log = outside / "agent.log"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, files.decode().split("\0")):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, home / name, follow_symlinks=False)
        (home / ".venv").symlink_to(ROOT / ".venv")
        for name in INSTALLED_FROM:  # what is installed is this checkout, and stays so
            os.utime(home / name, (0, 0))
        self.agent: subprocess.Popen[bytes] | None = None

    def compose(self, command: str) -> list[str]:
        return [*self.enter, "sh", "-c", f"cd {self.home} && {command}"]

    def begin(self, command: str) -> None:
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(
                self.compose(f"exec {command}"), stdout=log, stderr=log, start_new_session=True
            )

    def run(self, command: str) -> str:
        path = f"{self.home}/.venv/bin:{os.environ['PATH']}"
        done = subprocess.run(
            self.compose(command),
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{self.read_log()}"
        return done.stdout

    def read_log(self) -> str:
        return self.log.read_text()[-6000:]

    def wait_up(self) -> None:
        def up() -> bool:
            assert self.agent is not None
            assert self.agent.poll() is None, self.read_log()
            return '"try:"' in self.log.read_text()

        eventually(up, 60, "the greeting in the log")

    def answers(self) -> bool:
        return self.agent is not None and self.agent.poll() is None and self.socket.exists()

    def clean(self) -> None:
        """Whatever went wrong, nothing is left of it."""
        if any(self.socket.parent.iterdir()):
            if not self.answers():
                self.begin(".venv/bin/holdfast agent --state state")
                eventually(self.answers, what="an agent to clean up with")
            self.run("holdfast down")
        self.end()

    def end(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            os.killpg(self.agent.pid, signal.SIGINT)
            self.agent.wait(60)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    with fresh_default_roots(tmp_path / "outside") as enter:
        user = Newcomer(tmp_path / "home", tmp_path / "outside", enter)
        try:
            yield user
        finally:
            user.clean()


def test_every_command_of_the_readme(newcomer: Newcomer) -> None:
    blocks = read_blocks()
    first, look, change, test, use, secret = blocks
    assert first == [SET_UP]
    assert set(test) == OF_ITS_OWN
    newcomer.begin(SET_UP)
    newcomer.wait_up()
    outputs = {command: newcomer.run(command) for command in look}
    assert re.fullmatch(r"hello-web-[123]\n", outputs["curl http://127.0.0.1:8080/"])
    answers = {newcomer.run("curl -s http://127.0.0.1:8080/") for _ in range(30)}
    assert answers == {f"hello-web-{slot}\n" for slot in (1, 2, 3)}
    assert "converged" in outputs[".venv/bin/holdfast status --wait 10"]
    for command in change:
        newcomer.run(command)
    eventually(lambda: newcomer.run("holdfast ps web").count("running") >= 5, what="the one that was killed, again")

    def answered() -> bool:
        return "answered by hello-web-" in newcomer.run("holdfast logs visitor")

    eventually(answered, what="the visitor's line")
    doctor, agent = use
    newcomer.run(doctor)
    newcomer.end()
    newcomer.run("mkdir /etc/holdfast/state")
    newcomer.begin(f".venv/bin/{agent}")
    eventually(newcomer.answers, what="the agent's socket")
    newcomer.run("holdfast sync")
    newcomer.run("holdfast status --wait 60")
    newcomer.run("mkdir /etc/holdfast/state/shop && echo PASSWORD=hunter2 >/etc/holdfast/state/shop/app.env")
    key, encrypt, decrypt = (newcomer.run(command) for command in secret)
    assert key.startswith("age1")
    assert (encrypt, decrypt) == ("", "PASSWORD=hunter2\n")
    assert "AGE ENCRYPTED" in newcomer.run("cat /etc/holdfast/state/shop/app.env")


def test_every_command_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in set(cli.list_commands(click.Context(cli))) - {"keeper", "version"}:
        assert re.search(rf"\b{name}\b", text), name


def test_dockerfile_example_is_the_one_of_the_sample() -> None:
    assert (ROOT / "Dockerfile.example").resolve() == ROOT / "state/hello/Dockerfile.example"
