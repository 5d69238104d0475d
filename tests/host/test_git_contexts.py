"""Git repositories as build contexts, from real servers; and what hostile ones try (attack rows 56 and 57)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.builder.faults import BuildCancelled
from agent.builder.git.checkouts import Checkouts
from agent.builder.git.gitcommand import GitAccess, GitFailed, GitLimits
from agent.builder.stop import Stop
from agent.errors import NotFound, Refused
from agent.oci.gitreference import parse_git_reference
from tests.host.agents import eventually
from tests.host.builderlab import Lab, open_builder_lab
from tests.host.gitserver import GitServer, open_git_server

pytestmark = pytest.mark.host

DOCKERFILE = "FROM scratch\nCOPY . /\n"
ANYONE = GitAccess()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with open_git_server(tmp_path_factory.mktemp("holdfast-test-git") / "served") as opened:
        yield opened


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("holdfast-test-gitlab")) as opened:
        yield opened


@pytest.fixture(scope="module")
def app(server: GitServer) -> dict[str, str]:
    """A repository with two branches, a tag on a commit no branch has, and a subdirectory."""
    repository = server.create("app")
    sub = repository.tree(("100644", "Dockerfile", DOCKERFILE), ("100644", "inner", "inner\n"))
    links = [("120000", "escape", "/etc"), ("120000", "up", "../..")]
    first = repository.tree(
        ("100644", "Dockerfile", DOCKERFILE), ("100755", "run", "one\n"), ("040000", "sub", sub), *links
    )
    commits = {"main": repository.commit(first)}
    second = repository.tree(("100644", "Dockerfile", DOCKERFILE), ("100644", "run", "two\n"))
    commits["dev"] = repository.commit(second, "dev")
    commits["old"] = repository.git("commit-tree", "-m", "old", second)
    repository.git("tag", "-a", "-m", "one", "v1", commits["old"])
    return commits


def build(lab: Lab, context: str, **fields: object) -> dict[str, bytes]:
    """What the layer of the only COPY holds."""
    order = lab.config(DOCKERFILE, **fields)
    entry = lab.builder.build(type(order)(**{**order.__dict__, "context": context}))
    with lab.open_layer(lab.images.layers(entry.id)[-1].descriptor.digest) as tar:
        return {
            info.name: (
                info.linkname.encode() if info.issym() else (found.read() if (found := tar.extractfile(info)) else b"")
            )
            for info in tar.getmembers()
            if not info.isdir()
        }


def test_refs_and_subdirectories(lab: Lab, server: GitServer, app: dict[str, str]) -> None:
    url = server.url("app")
    everything = build(lab, url)
    assert everything == {
        "Dockerfile": DOCKERFILE.encode(),
        "run": b"one\n",
        "sub/Dockerfile": DOCKERFILE.encode(),
        "sub/inner": b"inner\n",
        "escape": b"/etc",
        "up": b"../..",
    }
    assert build(lab, f"{url}#main") == build(lab, f"{url}#{app['main']}") == everything
    for ref in ("dev", "refs/heads/dev", "v1", app["old"]):
        assert build(lab, f"{url}#{ref}")["run"] == b"two\n"
    assert set(build(lab, f"{url}#main:sub")) == set(build(lab, f"{url}#:/sub/")) == {"Dockerfile", "inner"}
    with server.daemon() as base:
        assert build(lab, f"{base}/app.git#dev")["run"] == b"two\n"
    left = list((lab.root / "data" / "builds" / "git").iterdir())
    assert len(left) <= 4 and not any((path / "git").exists() or (path / "tree" / ".git").exists() for path in left)
    lab.builder.sweep()
    assert not (lab.root / "data" / "builds" / "git").exists()


def test_a_moved_branch_is_noticed(lab: Lab, server: GitServer) -> None:
    repository, url = server.create("moving"), server.url("moving")
    repository.commit(repository.tree(("100644", "Dockerfile", DOCKERFILE), ("100644", "f", "1")))
    order = lab.config(DOCKERFILE)
    order = type(order)(**{**order.__dict__, "context": url})
    before = lab.builder.digest(order)
    assert lab.builder.digest(order) == before
    repository.commit(repository.tree(("100644", "Dockerfile", DOCKERFILE), ("100644", "f", "2")))
    assert lab.builder.digest(order) != before
    assert build(lab, url)["f"] == b"2"


def test_an_additional_context(lab: Lab, server: GitServer, app: dict[str, str]) -> None:
    text = "FROM scratch\nCOPY --from=other run /run\n"
    entry = lab.build(text, contexts={"other": f"{server.url('app')}#dev"})
    assert lab.read(entry, "run") == b"two\n"


@pytest.mark.parametrize("ref", ["nothing", "f" * 40, "main:nothing", "main:run", "main:escape", "main:up"])
def test_what_is_not_there(lab: Lab, server: GitServer, app: dict[str, str], ref: str) -> None:
    """Also a subdirectory that is a link, wherever it leads."""
    with pytest.raises(Exception, match=r"has no branch|has no commit|is no directory in it") as caught:
        build(lab, f"{server.url('app')}#{ref}")
    assert getattr(caught.value, "retry_after", "") is None


HOSTILE = [
    "https://host/a.git#--upload-pack=touch",
    "https://host/a.git#-b",
    "--upload-pack=touch /pwned",
    "https://-oProxyCommand=x/a.git",
    "ssh://-oProxyCommand=x/a.git",
    "git@-oProxyCommand=x:a.git",
    "git@host:-upload",
    "ext::sh -c touch% /pwned",
    "file:///etc/a.git",
    "fd::3",
    "https://host/../../a.git",
    "https://host/a.git#main:../../etc",
    "https://host/a.git#main:a/../../etc",
    "https://host/a.git#main:.git/hooks",
    "https://host/a.git#a..b",
    "https://host/a.git#a\nb",
    "https://host/a.git#a b",
    "https://host/a.git\r",
    "https://user:secret@host/a.git",
    "https://token@host/a.git",
    "https://host/a.git?ref=main",
    "https://host/archive.tar.gz",
    "ftp://host/a.git",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_urls_that_git_never_sees(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_git_reference(text)
    assert "secret" not in caught.value.message and "token@" not in caught.value.message


def test_usual_urls() -> None:
    for text in (
        "https://github.com/user/app.git",
        "https://host.example:8443/team/app.git#v1.2:docker/web",
        "git://host/app",
        "ssh://git@host:2222/team/app.git#feature/x",
        "git@github.com:user/app.git#pull/12/head",
    ):
        assert str(parse_git_reference(text)) == text
    assert parse_git_reference("github.com/user/app.git").remote == "https://github.com/user/app.git"
    assert parse_git_reference("git@h:a/b.git").host == "h"


def fetch(tmp_path: Path, server: GitServer, name: str, limits: GitLimits | None = None) -> set[str]:
    checkouts = Checkouts(tmp_path / "checkouts", limits or GitLimits())
    try:
        with checkouts.held(parse_git_reference(server.url(name)), ANYONE, lambda: None) as top:
            return {str(path.relative_to(top)) for path in top.rglob("*")}
    finally:
        left = [path for path in (tmp_path / "checkouts").iterdir() if (path / "git").exists()]
        assert left == []


def test_trees_that_are_refused(server: GitServer, tmp_path: Path) -> None:
    good = ("100644", "Dockerfile", DOCKERFILE)
    trees = {
        "submodule": [good, ("160000", "dir\r", "1" * 40), ("100644", ".gitmodules", "[submodule]")],
        "gitlink": [good, ("120000", ".git", "/etc")],
        "gitdir": [good, ("100644", ".GIT", "gitdir: /etc")],
        "gitdot": [good, ("100644", ".git. ", "x")],
        "gitshort": [good, ("100644", "GIT~1", "x")],
    }
    for name, entries in trees.items():
        repository = server.create(name)
        repository.commit(repository.tree(*entries))
        with pytest.raises(Refused, match=r"submodule|unsafe file name"):
            fetch(tmp_path, server, name)


def test_bounds(server: GitServer, tmp_path: Path, app: dict[str, str]) -> None:
    repository = server.create("large")
    repository.commit(repository.tree(("100644", "noise", os.urandom(400_000)), ("100644", "a", "a")))
    for limits, fault in (
        (GitLimits(entries=1), "more than 1 files"),
        (GitLimits(bytes=100_000), "of files"),
        (GitLimits(stored=100_000), "holds more than"),
    ):
        with pytest.raises(Refused, match=fault):
            fetch(tmp_path, server, "large", limits)
    with pytest.raises(GitFailed, match="took over 0"):
        fetch(tmp_path, server, "app", GitLimits(seconds=0.0))


def test_nothing_of_the_host_counts(
    server: GitServer, tmp_path: Path, app: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable, configuration, template, hook or filter of the host, nor one the repository brings, has effect."""
    pwned, home = tmp_path / "pwned", tmp_path / "home"
    script = home / "hook"
    home.mkdir()
    script.write_text(f"#!/bin/sh\ntouch {pwned}\n")
    script.chmod(0o755)
    hooks = home / "templates" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).symlink_to(script)
    (home / ".gitconfig").write_text(
        f"[core]\nhooksPath={hooks}\nfsmonitor={script}\n[init]\ntemplateDir={home}/templates\n"
        f'[filter "x"]\nsmudge={script}\n[url "ext::{script}"]\ninsteadOf={server.url("filtered")}\n'
    )
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_TEMPLATE_DIR": str(home / "templates"),
        "GIT_SSH_COMMAND": str(script),
        "GIT_EXEC_PATH": str(home),
        "GIT_CONFIG_PARAMETERS": f"'core.hooksPath'='{hooks}'",
        "GIT_ALLOW_PROTOCOL": "ext:file",
        "GIT_TRACE": str(pwned),
        "GIT_OBJECT_DIRECTORY": str(home),
    }.items():
        monkeypatch.setenv(name, value)
    repository = server.create("filtered")
    repository.commit(repository.tree(("100644", ".gitattributes", "* filter=x\n"), ("100644", "f", "f")))
    assert fetch(tmp_path, server, "filtered") == {"f", ".gitattributes"}
    assert not pwned.exists()


def test_a_token_is_never_said(tmp_path: Path) -> None:
    checkouts = Checkouts(tmp_path / "checkouts")
    reference = parse_git_reference("https://127.0.0.1:1/a.git")
    with pytest.raises(GitFailed) as caught, checkouts.held(reference, GitAccess(token="topsecret"), lambda: None):
        pass
    assert "topsecret" not in str(caught.value)


def test_tokens_go_by_https_only(server: GitServer, tmp_path: Path, app: dict[str, str]) -> None:
    checkouts = Checkouts(tmp_path / "checkouts")
    server.demand("Basic something")
    try:
        with (
            pytest.raises(GitFailed, match=r"could not read Username|Authentication failed"),
            checkouts.held(parse_git_reference(server.url("app")), GitAccess(token="topsecret"), lambda: None),
        ):
            pass
    finally:
        server.demand("")
    assert not any(server.seen)


def find_processes(pattern: str) -> list[str]:
    """The command lines of all processes, where it occurs."""
    listed = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if re.search(pattern, line)]


def test_cancelling_leaves_nothing(server: GitServer, tmp_path: Path, app: dict[str, str]) -> None:
    """Over ssh to a server that never answers: git, and the ssh it started, are gone."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        cancel = threading.Event()
        stop = Stop(cancel)
        checkouts = Checkouts(tmp_path / "checkouts")
        reference = parse_git_reference(f"ssh://git@127.0.0.1:{port}/a.git")
        found: list[list[str]] = []

        def cancel_it() -> None:
            with silent.accept()[0]:
                found.append(find_processes(rf"(git|ssh) .*\b{port}\b"))
                cancel.set()

        threading.Thread(target=cancel_it).start()
        with pytest.raises(BuildCancelled), checkouts.held(reference, ANYONE, stop.check):
            pass
    eventually(lambda: not find_processes(rf"(git|ssh) .*\b{port}\b"), what="the end of what was killed")
    assert len(found[0]) > 1
    assert list((tmp_path / "checkouts").iterdir()) == []


def test_ssh_takes_nothing_but_an_agent(tmp_path: Path) -> None:
    """Neither the host's keys nor its ssh configuration: what is not in an agent that was given is not used."""
    with pytest.raises((GitFailed, NotFound)) as caught:
        checkouts = Checkouts(tmp_path / "checkouts")
        with checkouts.held(parse_git_reference("ssh://git@127.0.0.1:1/a.git"), ANYONE, lambda: None):
            pass
    assert "127.0.0.1" in str(caught.value)
