"""All tags of a repository, pulled and pushed by a real agent from and to a real registry."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout

import pytest
from agents import Agent

from agent.cli import main
from agent.store.layout import DataLayout
from tests.host.fronts import TagFront
from tests.host.registry import Registry, entry, make_tar
from tests.host.signing import MANIFEST, SignatureShelf, Signer

pytestmark = pytest.mark.host
BASE = make_tar([entry("base", os.urandom(3000))])
TAGS = ("1.0", "1.1", "2.0", "latest")


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        yield running


@pytest.fixture
def front(registry: Registry) -> Iterator[TagFront]:
    with TagFront(registry.address) as running:
        yield running


def run(agent: Agent, *arguments: str, code: int = 0) -> list[str]:
    """The lines that a command prints, to either stream."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.setenv("HOLDFAST_HOST", agent.host)
        done = main.run(arguments)
    assert done == code, told.getvalue()
    return told.getvalue().splitlines()


def fill(registry: Registry, name: str) -> SignatureShelf:
    """Images that share a layer, of which one is signed."""
    for tag in TAGS:
        registry.push_layers(f"{name}:{tag}", [BASE, make_tar([entry("own", tag.encode())])], compression="none")
    shelf = SignatureShelf(f"{registry.address}/{name}")
    shelf.sign(shelf.digest("1.0"), Signer())
    return shelf


def local(agent: Agent, repository: str) -> set[str]:
    images = json.loads("\n".join(run(agent, "images", "--json")))
    names = [name for image in images for name in image["names"]]
    return {name.removeprefix(f"{repository}:") for name in names if name.startswith(f"{repository}:")}


def test_all_that_a_registry_has(agent: Agent, registry: Registry, front: TagFront) -> None:
    shelf = fill(registry, "shop/all")
    shelf.put("sha256:" + "0" * 64)
    repository = f"{front.address}/shop/all"
    told = run(agent, "pull", "--all-tags", repository)
    assert local(agent, repository) == set(TAGS)
    assert told[-1] == f"{repository}: 4 tags pulled, 2 left out: signatures and the like"
    for tag in TAGS:
        assert any(line.startswith(f"{repository}:{tag}: sha256:") for line in told)
    asked = [path for path in front.paths() if "/blobs/" in path]
    assert len(asked) == len(set(asked)) == 9, "the shared layer comes once"
    assert len(run(agent, "pull", "-a", "-q", "--policy", "missing", repository)) == 4
    assert [path for path in front.paths() if "/blobs/" in path] == asked
    shelf.close()


def test_one_that_fails_hides_no_other(agent: Agent, registry: Registry, front: TagFront) -> None:
    fill(registry, "shop/some").close()
    front.answers["/v2/shop/some/manifests/1.1"] = (200, {"Content-Type": MANIFEST}, b"{}")
    repository = f"{front.address}/shop/some"
    lines = [json.loads(line) for line in run(agent, "pull", "--json", "-a", repository, code=1)]
    ends = {line["tag"]["name"]: line["tag"] for line in lines if "tag" in line}
    assert set(ends) == set(TAGS)
    assert "image" in ends["2.0"]
    assert ends["1.1"]["error"]["reason"] == "InvalidManifest"
    assert lines[-1] == {"tags": {"repository": repository, "done": 3, "failed": 1, "untried": 0, "left_out": 1}}
    assert local(agent, repository) == {*TAGS} - {"1.1"}
    told = run(agent, "pull", "-a", repository, code=1)
    assert any(line.startswith(f"error: {repository}:1.1: ") for line in told)
    assert told[-1] == f"{repository}: 3 tags pulled, 1 failed, 1 left out: signatures and the like"


def test_a_registry_that_fails_is_not_asked_for_all(agent: Agent, registry: Registry, front: TagFront) -> None:
    fill(registry, "shop/down").close()
    for tag in TAGS:
        front.answers[f"/v2/shop/down/manifests/{tag}"] = (429, {"Retry-After": "600"}, b"")
    told = run(agent, "pull", "-a", f"{front.address}/shop/down", code=1)
    assert told[-1].endswith(
        "0 tags pulled, 3 failed, 1 not tried, for it failed again and again, 1 left out: signatures and the like"
    )
    assert len([path for path in front.paths() if "/manifests/" in path]) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pull -a {}/shop/none", "has no images of {}/shop/none"),
        ("pull -a {}/shop/all:1.0", "leave tag and digest out"),
        ("pull -a oci:/tmp", "a file of the host has no tags"),
        ("push -a {}/shop/none", "no image with a tag of {}/shop/none is local"),
        ("push -a {}/shop/none r.example/a:1", "leave tag and digest out"),
    ],
)
def test_what_has_no_tags_is_said(agent: Agent, registry: Registry, line: str, said: str) -> None:
    told = run(agent, *line.replace("{}", registry.address).split(), code=1)
    assert said.replace("{}", registry.address) in " ".join(told)


def test_all_that_is_local_is_pushed(agent: Agent, registry: Registry) -> None:
    fill(registry, "shop/source").close()
    source, target = f"{registry.address}/shop/source", f"{registry.address}/shop/target"
    run(agent, "pull", "-a", source)
    told = run(agent, "push", "--all-tags", source, target)
    assert told[-1] == f"{target}: 4 tags pushed"
    there, here = SignatureShelf(target), SignatureShelf(source)
    digests = [here.digest(tag) for tag in TAGS]
    assert [there.digest(tag) for tag in TAGS] == digests
    assert run(agent, "push", "-a", "-q", source) == digests
    lines = [json.loads(line) for line in run(agent, "push", "-a", "--json", "--all-platforms", source)]
    assert [line["tag"]["pushed"]["present"] for line in lines if "tag" in line] == [2] * 4
    (DataLayout(agent.data_root).content / "blobs/sha256" / digests[TAGS.index("2.0")][7:]).unlink()
    told = run(agent, "push", "-a", source, f"{registry.address}/shop/other", code=1)
    assert any(line.startswith(f"error: {registry.address}/shop/other:2.0: the manifest ") for line in told)
    assert told[-1] == f"{registry.address}/shop/other: 3 tags pushed, 1 failed"
    there.close()
    here.close()
