"""Lists of tags, also such as no registry should send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.image.errors import ImageNotFound
from agent.image.progress import PullTracker
from agent.image.registry.client import RegistryClient
from agent.image.transfer.taglist import MAX_TAGS, decode_tags
from agent.oci.document import InvalidDocument
from agent.oci.reference import InvalidReference, parse_reference, parse_repository
from tests.unit.image.stub_registry import StubRegistry

LIST = "/v2/shop/web/tags/list"
HEX = "0" * 64


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with StubRegistry() as running:
        yield running


def page(*tags: Any) -> bytes:
    return json.dumps({"name": "shop/web", "tags": tags}).encode()


def fetch(stub: StubRegistry, path: Path) -> list[bytes]:
    config = RegistryConfig(docker_config=path / "none", attempts=1)
    reference = parse_reference(f"{stub.address}/shop/web")
    return list(RegistryClient(reference, config, PullTracker("t", None, None)).fetch_tags())


def link(target: str) -> dict[str, str]:
    return {"Link": f'<{target}>; rel="next"'}


def test_pages_are_read_in_order(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[LIST] = (200, link("/v2/shop/web/more?last=b&n=2"), page("a", "b"))
    stub.answers["/v2/shop/web/more"] = (200, {}, page("b", "c", f"sha256-{HEX}.sig", f"sha256-{HEX}"))
    found = decode_tags(fetch(stub, tmp_path), "shop/web")
    assert (found.tags, found.left_out) == (("a", "b", "c"), 2)
    assert stub.paths()[-2:] == [f"{LIST}?n=1000", "/v2/shop/web/more?last=b&n=2"]


def test_a_list_without_an_end_is_refused(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[LIST] = (200, link(LIST), page("a"))
    with pytest.raises(InvalidDocument, match="more than 100 lists of tags"):
        fetch(stub, tmp_path)


def test_another_host_is_not_asked(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[LIST] = (200, link("http://127.0.0.1:9/v2/shop/web/tags/list"), page("a"))
    with pytest.raises(InvalidDocument, match="another host"):
        fetch(stub, tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (page("../up"), "not a tag"),
        (page("a\x1b[2J"), "not a tag"),
        (page("a" * 129), "not a tag"),
        (page(1), "not a list of strings"),
        (b"[]", "not a JSON object"),
        (b" " * (5 << 20), "at most"),
        (page(*(str(number) for number in range(MAX_TAGS + 1))), "more than 10000 tags"),
    ],
)
def test_what_is_no_list_of_tags_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        decode_tags([data], "shop/web")


@pytest.mark.parametrize("data", [b'{"tags": null}', b"{}", page(), page(f"sha256-{HEX}.att")])
def test_a_repository_without_images_is_not_found(data: bytes) -> None:
    with pytest.raises(ImageNotFound):
        decode_tags([data], "shop/web")


def test_a_repository_has_neither_tag_nor_digest() -> None:
    assert parse_repository("r.io:5000/a").tag == "latest"
    for text in ("a:1", "a:latest", f"a@sha256:{HEX}", "r.io:5000/a:1"):
        with pytest.raises(InvalidReference, match="leave tag and digest out"):
            parse_repository(text)
