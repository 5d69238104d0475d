"""Checkouts that keep their .git, from a real server, and looked at by a real git."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.builder.faults import InvalidDockerfile
from agent.builder.git import gitcommand
from agent.builder.git.checkouts import Checkouts
from agent.builder.git.gitcommand import GitAccess, GitLimits
from agent.errors import Refused
from agent.oci.gitreference import InvalidGitReference, parse_git_reference, with_repository
from tests.host.builderlab import Lab, open_builder_lab
from tests.host.certificates import Authority
from tests.host.gitserver import GitServer, Repository, open_git_server

pytestmark = pytest.mark.host

ANYONE = GitAccess()
ARG = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
DOCKERFILE = "FROM scratch\nCOPY . /\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with open_git_server(tmp_path_factory.mktemp("holdfast-test-gitdir") / "served") as opened:
        yield opened


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("holdfast-test-gitdirlab")) as opened:
        yield opened


@pytest.fixture(scope="module")
def app(server: GitServer) -> Repository:
    """Three commits on a branch, and an annotated tag; attributes that change what is written."""
    repository = server.create("app")
    files = [
        ("100644", "Dockerfile", DOCKERFILE),
        ("100644", ".gitattributes", "*.txt text eol=crlf\n*.big filter=lfs\n"),
        ("100644", "lines.txt", "a\nb\n"),
        ("100644", "x.big", "pointer\n"),
        ("120000", "link", "/etc"),
    ]
    commit = ""
    parents: tuple[str, ...] = ()
    for text in ("one\n", "two\n", "three\n"):
        tree = repository.tree(*files, ("100755", "run", "line\n" * 200 + text))
        commit = repository.git("commit-tree", "-m", text, *parents, tree)
        parents = ("-p", commit)
    repository.git("update-ref", "refs/heads/main", commit)
    repository.git("tag", "-a", "-m", "one", "v1", commit)
    return repository


def look(tree: Path, *arguments: str) -> str:
    """What git says there, as somebody with no configuration."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tree.parent / "nobody"), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments],
        cwd=tree,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def digest(tree: Path) -> dict[str, tuple[int, str]]:
    """Every file of .git: its mode and its bytes."""
    return {
        str(path.relative_to(tree)): (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted((tree / ".git").rglob("*"))
    }


def fetch(place: Path, url: str, access: GitAccess = ANYONE, limits: GitLimits | None = None) -> Path:
    """A copy of the checkout, as a build makes one, with times of its own."""
    checkouts = Checkouts(place / "checkouts", limits or GitLimits())
    with checkouts.held(with_repository(parse_git_reference(url)), access, lambda: None) as top:
        assert [path.name for path in top.parent.iterdir()] == ["tree"]
        shutil.copytree(top, place / "copy", symlinks=True)
    checkouts.drop()
    return place / "copy"


def test_git_works_in_it(server: GitServer, app: Repository, tmp_path: Path) -> None:
    """Also after its files got other times, and in submodules; the same again gives the same bytes, however the server
    packs."""
    outer, commit = server.create("outer"), app.git("rev-parse", "main")
    modules = '[submodule "m"]\n\tpath = lib\n\turl = ../app.git\n'
    own = outer.commit(outer.tree(("100644", ".gitmodules", modules), ("160000", "lib", commit)))
    outer.git("tag", "-a", "-m", "one", "v1", own)
    tree = fetch(tmp_path / "one", f"{server.url('outer')}#v1")
    before = digest(tree)
    assert (tree / ".git" / "HEAD").read_text() == f"{own}\n"
    assert look(tree, "describe", "--always", "--dirty") == "v1"
    assert look(tree, "status", "--porcelain", "--ignored") == look(tree / "lib", "status", "--porcelain") == ""
    assert look(tree, "submodule", "status").split()[:2] == [commit, "lib"]
    assert look(tree / "lib", "log", "--format=%H %s") == f"{commit} three"
    assert look(tree / "lib", "describe", "--always", "--dirty") == commit[:7]
    assert look(tree / "lib", "fsck", "--full", "--strict") == ""
    app.git("repack", "-adfq", "--depth=1")
    assert digest(fetch(tmp_path / "two", f"{server.url('outer')}#v1")) == before


def test_nothing_of_its_coming_is_in_it(
    server: GitServer, app: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither credentials, nor this host's paths, hooks or reflogs; one that sends everything gives no more."""
    commit = app.git("rev-parse", "main~1")
    authority, token = Authority(tmp_path), b64encode(b"x-access-token:topsecret").decode()
    monkeypatch.setitem(gitcommand._SETTINGS, "http.sslCAInfo", str(authority.certificate))
    with open_git_server(server.root, versions=False, certificate=authority.sign("server", "127.0.0.1")) as old:
        old.demand(f"Basic {token}")
        tree = fetch(tmp_path, f"{old.url('app')}#{commit}", GitAccess(token="topsecret", agent="/run/agent.sock"))
        assert look(tree, "config", "remote.origin.url") == old.url("app")
    found = {str(path.relative_to(tree / ".git")): path for path in (tree / ".git").rglob("*") if path.is_file()}
    packs = {name for name in found if name.startswith("objects/pack/pack-")}
    assert set(found) - packs == {"HEAD", "config", "index", "shallow"} and len(packs) == 2
    for path in found.values():
        data = path.read_bytes()
        assert not any(
            word in data for word in (b"topsecret", token.encode(), b"agent.sock", str(tmp_path).encode(), b"/holdfast")
        )
    assert look(tree, "rev-list", "HEAD") == commit and look(tree, "status", "--porcelain") == ""
    assert look(tree, "cat-file", "--batch-all-objects", "--batch-check").count(" commit ") == 1


def test_bounds(server: GitServer, app: Repository, tmp_path: Path) -> None:
    """.git is a part of the files; a directory of a repository has none."""
    noise = server.create("noise")
    noise.commit(noise.tree(("100644", "noise", os.urandom(100_000))))
    for limits, fault in ((GitLimits(bytes=150_000), "of files"), (GitLimits(stored=150_000), "holds more than")):
        with pytest.raises(Refused, match=fault):
            fetch(tmp_path, server.url("noise"), limits=limits)
        assert list((tmp_path / "checkouts").iterdir()) == []
    with pytest.raises(InvalidGitReference, match=r"no \.git of its own"):
        with_repository(parse_git_reference(f"{server.url('app')}#main:lib"))


def test_one_is_kept_for_each_ref(server: GitServer, app: Repository, tmp_path: Path) -> None:
    """The same commit by another name, or without .git, is another checkout; by the same name it is the same."""
    checkouts, url = Checkouts(tmp_path / "checkouts"), server.url("app")
    plain, commit = parse_git_reference(url), app.git("rev-parse", "main")
    tag = f"{app.git('rev-parse', 'v1')} refs/tags/v1\n^{commit}"
    paths = set()
    for ref, named in (("", f"{commit} refs/heads/main"), ("#v1", tag), ("#main", f"{commit} refs/heads/main")):
        with checkouts.held(with_repository(parse_git_reference(f"{url}{ref}")), ANYONE, lambda: None) as top:
            paths.add(top)
            assert (top / ".git" / "packed-refs").read_text().partition("\n")[2] == f"{named}\n"
            assert (top / ".git" / "HEAD").read_text() == (top / ".git" / "shallow").read_text() == f"{commit}\n"
    with checkouts.held(plain, ANYONE, lambda: None) as top:
        assert top not in paths and not (top / ".git").exists()
    assert len(paths) == 2


def test_builds(lab: Lab, server: GitServer, app: Repository, tmp_path: Path) -> None:
    """As the context and in ADD; the layer cache tells the two from those without."""
    url = server.url("app")
    for flag, wanted in (("--keep-git-dir=false", False), ("--keep-git-dir", True)):
        made = lab.build(f"FROM scratch\nADD {flag} {url} /src/\n", network="host")
        assert ("src/.git/HEAD" in lab.layer(made, 0)) == wanted
    for value, wanted in (("0", False), ("1", True)):
        order = lab.config(DOCKERFILE, args={ARG: value})
        entry = lab.builder.build(type(order)(**{**order.__dict__, "context": url}))
        with lab.open_layer(lab.images.layers(entry.id)[-1].descriptor.digest) as tar:
            assert (".git/HEAD" in tar.getnames()) == wanted
            tar.extractall(tmp_path / value, filter="tar")
    assert look(tmp_path / "1", "status", "--porcelain") == ""
    for line, fault in (
        (f"ADD --keep-git-dir {url}#main:lib /x", r"no \.git of its own"),
        ("ADD --keep-git-dir f /x", "no source is one"),
    ):
        with pytest.raises(InvalidDockerfile, match=fault):
            lab.build(f"FROM scratch\n{line}\n", network="host", tag="never:1")
    order = lab.config(DOCKERFILE, args={ARG: "perhaps"})
    with pytest.raises(Refused, match="is true or false"):
        lab.builder.build(type(order)(**{**order.__dict__, "context": url}))
