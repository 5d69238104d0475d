"""The small parts of the image store: credentials, origins, challenges, queues, leases, names."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.errors import Conflict, Refused, Stalled
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch, HostileLayer, ImageNotFound, InsufficientStorage, PullCancelled
from agent.image.flight import Flights, Leases
from agent.image.layers.channel import DEPTH, Channel, ChannelBroken
from agent.image.layers.decompress import decompress
from agent.image.limits import UnpackLimits
from agent.image.origin import Origin, parse_origin
from agent.image.progress import PullProgress, PullTracker
from agent.image.registry.auth import is_same_party, parse_challenges
from agent.image.registry.credentials import Credentials, find_credentials
from agent.image.registry.transport import Transport
from agent.image.space import check_space
from agent.image.storage.content import ContentStore
from agent.image.storage.records import ImageEntry, ImageRecords
from agent.oci.descriptor import Descriptor
from agent.oci.digest import Digest, compute_digest
from agent.store.database import Database


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "key", ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v2/", "R.example:5000"]
)
def test_credentials_are_found_by_registry(tmp_path: Path, key: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {"other.example": {}, key: {"auth": packed("joe:a:b")}}}))
    found = find_credentials(config, "r.example:5000")
    assert found == Credentials("joe", "a:b")
    assert "a:b" not in repr(found)
    assert find_credentials(config, "r.example") is None


def test_docker_hub_and_sub_paths(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    auths = {
        "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
        "r.example/team": {"auth": packed("t:t")},
    }
    config.write_text(json.dumps({"auths": auths}))
    assert find_credentials(config, "docker.io") == Credentials("hub", "p")
    assert find_credentials(config, "r.example") is None, "a team's credentials are not the whole registry's"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"auths":[]}',
        '{"auths":{"r.example":5}}',
        '{"auths":{"r.example":{"auth":"%%%"}}}',
        "x" * (2 << 20),
    ],
)
def test_unusable_docker_config_is_said_so(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    with pytest.raises(Stalled) as caught:
        find_credentials(config, "r.example")
    assert caught.value.reason == "InvalidDockerConfig"


def test_no_docker_config_is_fine(tmp_path: Path) -> None:
    assert find_credentials(tmp_path / "none" / "config.json", "r.example") is None


@pytest.mark.parametrize(
    ("registry", "realm", "same"),
    [
        ("r.example", "r.example", True),
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.example.com", "auth.example.com", True),
        ("example.com", "auth.example.com", True),
        ("registry.example.com", "example.org", False),
        ("registry.one.co.uk", "auth.two.co.uk", False),
        ("registry.one.co.uk", "auth.one.co.uk", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.1", "20.0.0.1", False),
        ("::1", "::2", False),
        ("localhost", "com", False),
        ("evilexample.com", "example.com", False),
    ],
)
def test_who_may_see_credentials(registry: str, realm: str, same: bool) -> None:
    assert is_same_party(registry, realm) is same


def test_challenges_are_parsed() -> None:
    header = 'Basic realm="a, b", Bearer realm="https://r/t",service="s,x",scope="repository:a:pull,push"'
    bearer, basic = parse_challenges(header)
    assert (bearer.scheme, bearer.realm, bearer.service) == ("bearer", "https://r/t", "s,x")
    assert (basic.scheme, basic.realm) == ("basic", "a, b")
    assert parse_challenges("") == ()
    assert parse_challenges("Negotiate") == ()


def test_origins() -> None:
    assert parse_origin("https://R.example/x") == Origin("https", "r.example", 443)
    assert str(parse_origin("http://[::1]:5000/")) == "http://[::1]:5000"
    for url in ("ftp://r", "https://", "https://u:p@r/", "https://r:x/", "r.example", "https://é/", "https://[::1/"):
        with pytest.raises(Refused):
            parse_origin(url)


@pytest.mark.parametrize(
    "local", ["127.0.0.1", "localhost", "a.localhost:1", "[::1]", "169.254.169.254", "0.0.0.0", "[::ffff:127.0.0.1]"]
)
def test_no_registry_leads_to_what_only_this_host_can_reach(local: str) -> None:
    transport = Transport(RegistryConfig())
    with pytest.raises(Refused, match="this host's own"):
        transport.check_hop(parse_origin("https://r.example"), parse_origin(f"https://{local}"))
    transport.check_hop(parse_origin("https://127.0.0.1:5000"), parse_origin(f"https://{local}"))
    transport.check_hop(parse_origin("https://r.example"), parse_origin("https://10.0.0.1"))


def test_plain_http_and_downgrades() -> None:
    transport = Transport(RegistryConfig(insecure_registries=("plain.example:80",)))
    for url, allowed in (
        ("localhost", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("r.example", False),
    ):
        assert transport.may_be_plain(parse_origin(f"http://{url}:5000")) is allowed
    assert transport.may_be_plain(parse_origin("http://plain.example"))
    with pytest.raises(Refused):
        transport.check_hop(parse_origin("https://r.example"), parse_origin("http://127.0.0.1"))
    with pytest.raises(Refused):
        transport.check_hop(parse_origin("http://127.0.0.1"), parse_origin("http://r.example"))
    transport.check_hop(parse_origin("http://127.0.0.1"), parse_origin("https://r.example"))


def test_channel_hands_over_in_order_and_ends() -> None:
    channel = Channel()
    chunks = [b"%d" % number for number in range(DEPTH * 5)]

    def produce() -> None:
        for chunk in chunks:
            channel.put(chunk)
        channel.close()

    producer = threading.Thread(target=produce)
    producer.start()
    assert list(channel) == chunks
    producer.join()


def test_broken_channel_wakes_both_ends() -> None:
    channel = Channel()
    outcome: list[str] = []

    def produce() -> None:
        try:
            while True:
                channel.put(b"x")
        except ChannelBroken:
            outcome.append("broken")

    producer = threading.Thread(target=produce)
    producer.start()
    next(iter(channel))
    channel.break_off()
    producer.join(60)
    assert outcome == ["broken"]
    with pytest.raises(ChannelBroken):
        next(iter(channel))


@pytest.mark.parametrize("woken", [True, False])
def test_flights_exclude_each_other_and_notice_cancel(woken: bool) -> None:
    flights, cancel = Flights(), threading.Event()
    tracker = PullTracker("x", None, None)
    waiting = PullTracker("y", None, cancel)
    outcome: list[str] = []
    entered = threading.Event()

    def follow() -> None:
        entered.set()
        try:
            with flights.alone(["a", "b"], waiting):
                outcome.append("in")
        except PullCancelled:
            outcome.append("cancelled")

    with flights.alone(["b"], tracker):
        follower = threading.Thread(target=follow)
        follower.start()
        entered.wait()
        cancel.set()
        if woken:
            flights.wake()
        follower.join(60)
    assert outcome == ["cancelled"]
    cancel.clear()
    follow()
    assert outcome == ["cancelled", "in"]


def test_leases_keep_from_removal() -> None:
    leases = Leases()
    removed: list[set[str]] = []
    with leases.held(["a", "b"]), leases.held(["b"]):
        leases.while_free(["a", "b", "c"], removed.append)
    leases.while_free(["a", "b", "c"], removed.append)
    assert removed == [{"c"}, {"a", "b", "c"}]
    assert not leases._held, "nothing is remembered of what was held"


def test_progress_counts_and_never_exceeds() -> None:
    reports: list[PullProgress] = []
    tracker = PullTracker("app", reports.append, None)
    layers = [Descriptor("x", compute_digest(b"%d" % number), size) for number, size in enumerate((60, 30, 10))]
    first, second, third = tracker.expect(layers)
    first.advance(25)
    second.advance(70, fetched=False)
    third.finish(present=True)
    tracker.report("pulling")
    report = reports[0]
    assert (report.bytes_done, report.bytes_total, report.bytes_fetched) == (65, 100, 25)
    assert (report.layers_done, report.layers_total) == (1, 3)
    assert [layer.state for layer in report.layers] == ["running", "running", "present"]
    assert [layer.bytes_done for layer in report.layers] == [25, 30, 10]
    assert report.rate > 0
    assert report.layers[0].rate > 0
    assert report.eta is not None
    assert report.layers[0].eta is not None
    first.finish()
    tracker.report("pulling")
    assert (reports[1].bytes_done, reports[1].layers[0].state, reports[1].layers[0].eta) == (100, "done", None)


def chunked(data: bytes, size: int = 100) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes], ids=["gzip", "zstd", "plain"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_streams_are_unpacked_whatever_the_chunks(pack: Any, size: int) -> None:
    data = b"tar data " * 3000
    assert b"".join(decompress(chunked(pack(data), size), UnpackLimits())) == data


def test_several_members_and_padding() -> None:
    two = gzip.compress(b"one") + gzip.compress(b"two") + bytes(600)
    assert b"".join(decompress(chunked(two, 5), UnpackLimits())) == b"onetwo"
    frames = zstandard.compress(b"one") + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(b"two")
    assert b"".join(decompress(chunked(frames, 5), UnpackLimits())) == b"onetwo"


def test_output_is_bounded() -> None:
    limits = UnpackLimits(layer_bytes=1 << 20, ratio=10, ratio_floor=1 << 16)
    with pytest.raises(HostileLayer, match="times its size"):
        b"".join(decompress(chunked(gzip.compress(bytes(1 << 19))), limits))
    with pytest.raises(HostileLayer, match="1 MiB"):
        b"".join(decompress(chunked(bytes(2 << 20), 65536), limits))


def test_free_space_is_checked(tmp_path: Path) -> None:
    check_space(tmp_path, 1, UnpackLimits(reserve=0))
    with pytest.raises(InsufficientStorage):
        check_space(tmp_path, 1 << 62, UnpackLimits())


def test_content_is_verified_both_ways(tmp_path: Path) -> None:
    content = ContentStore(tmp_path / "content")
    digest = content.write(b"data")
    assert content.read(digest) == b"data"
    with pytest.raises(DigestMismatch):
        content.write(b"data", compute_digest(b"other"))
    content.path(digest).write_bytes(b"dama")
    with pytest.raises(DigestMismatch):
        content.read(digest)
    assert content.size(digest) is None, "damage is dropped"
    content.write(b"data")
    content.path(digest).write_bytes(b"dama")
    content.write(b"data")
    assert content.read(digest) == b"data", "writing repairs"
    content.path(digest).write_bytes(b"dama")
    with pytest.raises(DigestMismatch):
        list(content.stream(digest))
    assert content.all() == frozenset()


def image(name: str, *names: str) -> ImageEntry:
    digest = compute_digest(name.encode())
    return ImageEntry(digest, digest, names, 1, "", 0.0, digest, 1, (digest,), (digest,))


@pytest.fixture
def records(tmp_path: Path) -> ImageRecords:
    return ImageRecords(Database(tmp_path / "db"), ContentStore(tmp_path / "content"))


def test_a_name_belongs_to_one_image(records: ImageRecords) -> None:
    records.put(image("one", "docker.io/library/a:1", "docker.io/library/b:1"))
    records.put(image("two", "docker.io/library/a:1"))
    assert records.require("a:1").id == compute_digest(b"two")
    assert records.require("b:1").names == ("docker.io/library/b:1",)
    assert records.remove("b:1") is not None
    with pytest.raises(ImageNotFound):
        records.require("b:1")


def test_ids_may_be_shortened_when_unique(tmp_path: Path, records: ImageRecords) -> None:
    records.put(image("one"))
    key = compute_digest(b"one")
    assert records.require(key[7:13]).id == records.require(key[:20]).id == key
    assert records.find(key[7:12]) is None
    twin = Digest(key[:20] + "0" * 51)
    records.put(ImageEntry(twin, twin, (), 1, "", 0.0, twin, 1, (), ()))
    with pytest.raises(Conflict):
        records.find(key[7:13])
    assert records.require(key).id == key


def test_malformed_records_are_dropped(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put("image", "sha256:short", {"digest": 5})
    assert ImageRecords(database, ContentStore(tmp_path / "content")).all() == ()
    assert database.all("image") == {}
