"""Submodules of git repositories, from real servers, and what hostile ones try (attack row 57)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.builder.git import gitcommand
from agent.builder.git.checkouts import Checkouts
from agent.builder.git.gitcommand import GitAccess, GitLimits
from agent.errors import HoldfastError, Refused
from agent.oci.gitreference import parse_git_reference
from tests.host.builderlab import Lab, open_builder_lab
from tests.host.certificates import Authority
from tests.host.gitserver import GitServer, Repository, open_git_server

pytestmark = pytest.mark.host

ANYONE = GitAccess()
DOCKERFILE = "FROM scratch\nCOPY . /\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with open_git_server(tmp_path_factory.mktemp("holdfast-test-submodules") / "served") as opened:
        yield opened


@pytest.fixture(scope="module")
def elsewhere(server: GitServer) -> Iterator[GitServer]:
    """The same repositories by another port, where commits cannot be asked for."""
    with open_git_server(server.root, versions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("holdfast-test-submodulelab")) as opened:
        yield opened


@pytest.fixture(scope="module")
def leaf(server: GitServer) -> tuple[str, str]:
    """Two commits of a repository; the older one is on no branch's top."""
    repository = server.create("leaf")
    old = repository.commit(repository.tree(("100644", "f", "old"), ("120000", "link", "/etc")))
    new = repository.git("commit-tree", "-m", "x", "-p", old, repository.tree(("100755", "f", "new")))
    repository.git("update-ref", "refs/heads/main", new)
    return old, new


def describe(*modules: tuple[str, str], more: str = "") -> tuple[str, str, str]:
    """A .gitmodules of paths and URLs."""
    text = "".join(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n{more}' for path, url in modules)
    return ("100644", ".gitmodules", text)


Entry = tuple[str, str, str]


def fill(server: GitServer, name: str, *entries: Entry) -> Repository:
    repository = server.create(name)
    repository.commit(repository.tree(("100644", "Dockerfile", DOCKERFILE), *entries))
    return repository


def fetch(tmp_path: Path, url: str, limits: GitLimits | None = None, access: GitAccess = ANYONE) -> dict[str, str]:
    """What is checked out; afterwards nothing is left of what was not, nor of any repository."""
    checkouts = Checkouts(tmp_path / "checkouts", limits or GitLimits())
    try:
        with checkouts.held(parse_git_reference(url), access, lambda: None) as top:
            assert [path.name for path in top.parent.iterdir()] == ["tree"]
            return {
                str(path.relative_to(top)): str(path.readlink()) if path.is_symlink() else path.read_text()
                for path in top.rglob("*")
                if path.is_symlink() or not path.is_dir()
            }
    finally:
        checkouts.drop()
        assert list((tmp_path / "checkouts").iterdir()) == []


def test_submodules_in_each_other(server: GitServer, leaf: tuple[str, str], tmp_path: Path) -> None:
    """Relative URLs go from the repository that holds them; the commit is the tree's, whatever the branches say."""
    middle = fill(server, "middle", describe(("deep", "../leaf.git")), ("160000", "deep", leaf[0]))
    outer = server.create("outer")
    lib = outer.tree(("160000", "mid", middle.git("rev-parse", "main")), ("100644", "own", "own"))
    modules = describe(("lib/mid", "./../middle.git/"), ("new", server.url("leaf")), ("idle", "../x.git"))
    outer.commit(outer.tree(modules, ("040000", "lib", lib), ("160000", "new", leaf[1])))
    found = fetch(tmp_path, server.url("outer"))
    assert {name: text for name, text in found.items() if "Dockerfile" not in name and ".git" not in name} == {
        "lib/own": "own",
        "lib/mid/deep/f": "old",
        "lib/mid/deep/link": "/etc",
        "new/f": "new",
    }
    assert {name for name in found if ".git" in name} == {".gitmodules", "lib/mid/.gitmodules"}
    with server.daemon() as base:
        assert fetch(tmp_path, f"{base}/middle.git")["deep/f"] == "old"
    for bound, fault in (
        (
            {"depth": 1},
            r"middle\.git#\S+ \(the submodule 'lib/mid' of \S+outer\.git\) has submodules, and it lies in 1 others",
        ),
        ({"submodules": 2}, "brings it to more than 2 submodules"),
        ({"submodule_seconds": 0.0}, r"submodules of \S+outer\.git took over 0 s"),
    ):
        with pytest.raises(HoldfastError, match=fault):
            fetch(tmp_path, server.url("outer"), GitLimits(**bound))  # type: ignore[arg-type]


def test_builds_and_their_cache(lab: Lab, server: GitServer, leaf: tuple[str, str]) -> None:
    """As the context, a further context and in ADD; another commit of the submodule is another build."""
    modules = describe(("lib", "../leaf.git"))
    repository = fill(server, "app", modules, ("160000", "lib", leaf[0]))
    order = lab.config(DOCKERFILE)
    order = type(order)(**{**order.__dict__, "context": server.url("app")})
    text = f"FROM scratch\nCOPY --from=other f /copied\nADD {server.url('app')} /added/\n"
    contexts = {"other": f"{server.url('app')}#main:lib"}
    before = lab.builder.digest(order)
    made = lab.build(text, network="host", contexts=contexts)
    assert (lab.read(made, "copied"), lab.read(made, "added/lib/f")) == (b"old", b"old")
    repository.commit(repository.tree(("100644", "Dockerfile", DOCKERFILE), modules, ("160000", "lib", leaf[1])))
    assert lab.builder.digest(order) != before
    made = lab.build(text, network="host", contexts=contexts)
    assert (lab.read(made, "copied"), lab.read(made, "added/lib/f")) == (b"new", b"new")


def test_what_cannot_be_had(server: GitServer, leaf: tuple[str, str], tmp_path: Path) -> None:
    """The repository, the submodule and the next thing to do are named."""
    poor = server.create("poor")
    for name, url, commit, fault in (
        ("gone", "../x.git", leaf[0], r"x\.git#\S+ \(the submodule 'lib' of \S+/poor\.git#gone\).*not found.*\(see "),
        ("lost", "../leaf.git", "1" * 40, r"leaf\.git has no commit 1{40} \(the submodule 'lib' of \S+#lost\) \(see "),
    ):
        poor.commit(poor.tree(describe(("lib", url)), ("160000", "lib", commit)), name)
        with pytest.raises(HoldfastError, match=fault):
            fetch(tmp_path, f"{server.url('poor')}#{name}")


def test_another_host(server: GitServer, elsewhere: GitServer, leaf: tuple[str, str], tmp_path: Path) -> None:
    """It is one that a step could reach, or ``network: host`` says that it may be this one: for that build alone."""
    fill(server, "wide", describe(("lib", elsewhere.url("leaf"))), ("160000", "lib", leaf[0]))
    checkouts, reference = Checkouts(tmp_path / "checkouts"), parse_git_reference(server.url("wide"))
    with checkouts.held(reference, GitAccess(local=True), lambda: None) as top:
        assert (top / "lib" / "f").read_text() == "old"
    asked = len(elsewhere.seen)
    with pytest.raises(Refused, match="a build cannot reach"), checkouts.held(reference, ANYONE, lambda: None):
        pass
    assert len(elsewhere.seen) == asked > 0


def test_a_token_stays_with_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown to the outer repository's host, and to no other, nor for what another host names there."""
    authority = Authority(tmp_path)
    monkeypatch.setitem(gitcommand._SETTINGS, "http.sslCAInfo", str(authority.certificate))
    certificate, token = authority.sign("server", "127.0.0.1"), b64encode(b"x-access-token:topsecret").decode()
    with (
        open_git_server(tmp_path / "served", certificate=certificate) as own,
        open_git_server(tmp_path / "served", certificate=certificate) as other,
    ):
        leaf = own.create("leaf")
        commit = leaf.commit(leaf.tree(("100644", "f", "f")))
        back = own.create("back")
        back_commit = back.commit(back.tree(describe(("lib", own.url("leaf"))), ("160000", "lib", commit)))
        modules = describe(("1", "../leaf.git"), ("2", other.url("leaf")), ("3", other.url("back")))
        links = [("160000", "1", commit), ("160000", "2", commit), ("160000", "3", back_commit)]
        fill(own, "hub", modules, *links)
        own.demand(f"Basic {token}")
        fault = r"/leaf\.git#\S+ \(the submodule 'lib' of \S+back\.git#\S+ \(the submodule '3' of \S+hub\.git\)\)"
        with pytest.raises(HoldfastError, match=fault):
            fetch(tmp_path, own.url("hub"), access=GitAccess("topsecret", local=True))
        assert set(other.seen) == {""} and set(own.seen) == {f"Basic {token}", ""}


def test_what_hostile_ones_try(server: GitServer, leaf: tuple[str, str], tmp_path: Path) -> None:
    """Nothing of it is written or run."""
    evil, pwned = server.create("evil"), tmp_path / "pwned"
    lib, usual, link = ("160000", "lib", leaf[0]), describe(("lib", "../leaf.git")), ("120000", "LIB", "/etc")
    inner = ("040000", "lib", evil.tree(("160000", "sub", leaf[0])))
    cases: dict[str, tuple[str, list[Entry]]] = {
        "helper": ("no git URL", [describe(("lib", f"ext::sh -c touch% {pwned}")), lib]),
        "run": ("update = '!touch", [describe(("lib", "../leaf.git"), more=f"\tupdate = !touch {pwned}\n"), lib]),
        "bad": ("cannot be read", [("100644", ".gitmodules", '[submodule "lib'), lib]),
        "alias": ("no file of at most", [("120000", ".gitmodules", "Dockerfile"), lib]),
        "huge": ("no file of at most", [("100644", ".gitmodules", "#" * (1 << 20) + "\n"), lib]),
        "return": ("control characters", [usual, ("160000", "lib\r", leaf[0])]),
        "git": ("unsafe file name", [describe((".git", "../leaf.git")), ("160000", ".GIT", leaf[0])]),
        "case": ("upper and lower case", [usual, lib, link]),
        "parent": ("upper and lower case", [describe(("lib/sub", "../leaf.git")), inner, link]),
        "double": ("upper and lower case", [usual, lib, inner]),
        "self": ("is in the place of", [("160000", ".gitmodules", leaf[0])]),
    }
    for name, (fault, entries) in cases.items():
        evil.commit(evil.tree(*entries), name)
        with pytest.raises(Refused, match=fault) as caught:
            fetch(tmp_path, f"{server.url('evil')}#{name}")
        assert f"/evil.git#{name}" in str(caught.value)
    assert not pwned.exists()


def test_what_is_left_out(server: GitServer, leaf: tuple[str, str], tmp_path: Path) -> None:
    """With ``update = none``, as git does; what includes and the environment would say has no effect."""
    included = tmp_path / "included"
    included.write_text('[submodule "lib"]\n\tpath = lib\n\turl = ../gone.git\n')
    modules = describe(("lib", "../leaf.git"), more="\tupdate = none\n")
    more = ("100644", ".gitmodules", f"[include]\n\tpath = {included}\n{modules[2]}")
    fill(server, "lazy", more, ("160000", "lib", leaf[0]))
    assert set(fetch(tmp_path, server.url("lazy"))) == {".gitmodules", "Dockerfile"}
