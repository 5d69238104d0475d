"""What an order can ask of a build beside its Dockerfile, and what of a build happens at the same time."""

from __future__ import annotations

import dataclasses
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.builder.faults import BuildCancelled, BuildFailed, InvalidDockerfile
from agent.engine.model import BuildConfig
from agent.errors import Refused, Unsupported
from agent.image.storage.records import ImageEntry
from tests.host.agents import eventually
from tests.host.builderlab import FROM_CONTEXT, Lab, open_builder_lab
from tests.host.registry import Registry

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("holdfast-test-orders")) as opened:
        opened.add_rootfs()
        yield opened


@pytest.fixture(autouse=True)
def clean(lab: Lab) -> Iterator[None]:
    yield
    lab.check_clean()


def build(lab: Lab, text: str, **fields: Any) -> ImageEntry:
    """With any field of an order."""
    order = dataclasses.replace(lab.config(text), **fields)
    lab.said = []
    return lab.builder.build(order, progress=lab.note)


def order(lab: Lab, text: str, **fields: Any) -> BuildConfig:
    return dataclasses.replace(lab.config(text), **fields)


MEET = "RUN --mount=type=cache,target=/c,id=meet"


def wait_for(name: str) -> str:
    """Shell for a step that goes on when another one, which runs at the same time, has begun."""
    return f"until test -e /c/{name}; do sleep 0.02; done"


def test_independent_stages_run_at_the_same_time(lab: Lab) -> None:
    text = (
        "FROM scratch AS base\nCOPY rootfs/ /\n"
        f"FROM base AS one\n{MEET} : > /c/one; {wait_for('two')}; echo met > /one\n"
        f"FROM base AS two\n{MEET} : > /c/two; {wait_for('one')}; echo met > /two\n"
        "FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    )
    entry = build(lab, text)
    begun = [report for report in lab.said if report.phase == "step" and "met" in report.text]
    ends = [report for report in lab.said if report.phase == "finished" and "met" in report.text]
    assert lab.said.index(begun[1]) < lab.said.index(ends[0])
    assert {report.stage for report in begun} == {"one", "two"}
    assert lab.read(entry, "one") == lab.read(entry, "two") == b"met\n"


def test_a_failure_ends_the_other_stages(lab: Lab) -> None:
    text = (
        "FROM scratch AS base\nCOPY rootfs/ /\n"
        f"FROM base AS slow\n{MEET} : > /c/slow; exec sleep 86400\n"
        f"FROM base AS bad\n{MEET} {wait_for('slow')}; echo about to fail; exit 7\n"
        "FROM base\nCOPY --from=bad / /b\nCOPY --from=slow / /a\n"
    )
    with pytest.raises(BuildFailed, match=r"Dockerfile:6:1: RUN (?s:.)*exit code 7\nabout to fail") as caught:
        build(lab, text)
    assert caught.value.exit_code == 7


def test_cancelling_ends_every_stage(lab: Lab) -> None:
    text = (
        "FROM scratch AS base\nCOPY rootfs/ /\n"
        "FROM base AS one\nRUN sleep 86400\nFROM base AS two\nRUN sleep 86401\n"
        "FROM base\nCOPY --from=one / /a\nCOPY --from=two / /b\n"
    )
    cancel = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            lab.builder.build(order(lab, text), cancel=cancel)
        except BuildCancelled as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: len([state for state in lab.keeper.states() if state.running]) == 2, what="two steps")
    cancel.set()
    thread.join(60)
    assert len(failures) == 1


def test_many_stages_that_need_each_other(lab: Lab) -> None:
    """More than there are threads, and the last needs all of them."""
    count = 12
    stages = "".join(f"FROM base AS s{number}\nCOPY f /f{number}\n" for number in range(count))
    last = "".join(f"COPY --from=s{number} /f{number} /\n" for number in reversed(range(count)))
    (lab.context / "f").write_text("f")
    entry = build(lab, f"FROM scratch AS base\nCOPY rootfs/ /\n{stages}FROM base\n{last}")
    assert len(lab.images.layers(entry.id)) == count + 1


def test_names_labels_and_an_inline_dockerfile(lab: Lab) -> None:
    (lab.context / "f").write_text("inline")
    entry = build(
        lab,
        "FROM nowhere.example/never\n",
        dockerfile="inline",
        dockerfile_inline="FROM scratch\nCOPY f /\nLABEL a=1 b=1\n",
        labels={"b": "2", "c": "3"},
        tag="orders:one",
        tags=("orders:two", "registry.example/orders:three", "orders:one"),
    )
    assert lab.image_config(entry).labels == {"a": "1", "b": "2", "c": "3"}
    for name in ("orders:one", "orders:two", "registry.example/orders:three"):
        assert (found := lab.images.find(name)) is not None and found.id == entry.id
    assert build(lab, FROM_CONTEXT, tag="").names == ()
    with pytest.raises(InvalidDockerfile, match=r"inline:2:1: unknown instruction"):
        build(lab, "", dockerfile="inline", dockerfile_inline="FROM scratch\nBOGUS\n")


def test_platforms_and_other_orders_are_checked_first(lab: Lab) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    assert build(lab, FROM_CONTEXT, platforms=(f"linux/{machine}",)).id
    with pytest.raises(Unsupported, match="not for linux/s390x"):
        build(lab, FROM_CONTEXT, platforms=("linux/s390x",))
    with pytest.raises(Refused, match="SOURCE_DATE_EPOCH"):
        build(lab, FROM_CONTEXT, args={"SOURCE_DATE_EPOCH": "yesterday"})
    with pytest.raises(Refused, match="holds a digest"):
        build(lab, FROM_CONTEXT, tags=(f"a@sha256:{'0' * 64}",))


def test_no_cache_carries_out_every_step(lab: Lab) -> None:
    text = FROM_CONTEXT + "RUN cat /proc/sys/kernel/random/uuid > /u\n"
    first = build(lab, text)
    assert build(lab, text).id == first.id and len(lab.cached) == 2
    other = build(lab, text, no_cache=True)
    assert other.id != first.id and lab.cached == []
    assert build(lab, text).id == other.id, "what was made last is what the cache has"


EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
REPRODUCIBLE = FROM_CONTEXT + "WORKDIR /srv/app\nRUN echo x > f; mkdir -p /d/e; touch /d/e/g\nCOPY rootfs/etc /etc2/\n"


def test_the_same_twice(lab: Lab, tmp_path: Path) -> None:
    """By digest: from the cache, without it, and on another host with nothing of the first."""
    first = build(lab, REPRODUCIBLE, args=EPOCH)
    assert lab.image_config(first).created == "2023-11-14T22:13:20Z"
    for index in range(len(lab.images.layers(first.id))):
        times = {info.mtime for info in lab.layer(first, index).values()}
        assert times <= {1700000000, 0}, "nothing is younger"
    assert lab.layer(first)["etc2/passwd"].mtime == 1700000000
    for layer in lab.images.layers(first.id):
        packed = lab.images.content.path(layer.descriptor.digest).read_bytes()
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        assert packer.compress(zlib.decompress(packed, 31)) + packer.flush() == packed, "on any processor"
    assert build(lab, REPRODUCIBLE, args=EPOCH).digest == first.digest
    assert build(lab, REPRODUCIBLE, args=EPOCH, no_cache=True).digest == first.digest
    plain = build(lab, REPRODUCIBLE)
    assert plain.digest != first.digest and lab.image_config(plain).created == "1970-01-01T00:00:00Z"
    for path in lab.context.rglob("*"):
        os.utime(path, ns=(1, 1), follow_symlinks=False)
    with open_builder_lab(tmp_path) as other:
        other.add_rootfs()
        assert build(other, REPRODUCIBLE, args=EPOCH).digest == first.digest


def test_a_cache_in_a_directory(lab: Lab, tmp_path: Path) -> None:
    """Another host takes the layers from it, and pays no attention to one that is missing or damaged."""
    text = (
        "FROM scratch AS base\nCOPY rootfs/ /\nRUN cat /proc/sys/kernel/random/uuid > /u\n"
        "FROM base AS side\nRUN echo side > /side\n"
        "FROM base\nCOPY --from=side /side /\n"
    )
    directory = tmp_path / "cache"
    entry = build(lab, text, cache_to=str(directory))
    names = {path.name for path in directory.rglob("*") if path.is_file()}
    build(lab, text, cache_to=str(directory))
    assert {path.name for path in directory.rglob("*") if path.is_file()} == names
    (tmp_path / "other").mkdir()
    with open_builder_lab(tmp_path / "other") as other:
        other.add_rootfs()
        missing = str(tmp_path / "missing")
        there = build(other, text, cache_from=(missing, str(directory)))
        assert there.id == entry.id and len(other.cached) == 4
        assert [report.text for report in other.said if report.phase == "warning"] == [
            f"there is no build cache in {missing}"
        ]
        assert len(other.images.all()) == 1
        blob = max((directory / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    (tmp_path / "third").mkdir()
    with open_builder_lab(tmp_path / "third") as third:
        third.add_rootfs()
        assert build(third, text, cache_from=(str(directory),)).id != entry.id
        assert [report.phase for report in third.said if report.phase in ("cached", "warning")] == ["warning"]


def test_the_digest_counts_what_matters(lab: Lab) -> None:
    text = FROM_CONTEXT + "ARG V\nRUN echo $V > /v\n"
    base = lab.builder.digest(order(lab, text))
    same: list[dict[str, Any]] = [{"no_cache": True}, {"pull": True}, {"args": {"UNUSED": "1"}}, {"cache_to": "/x"}]
    other: list[dict[str, Any]] = [
        {"args": {"V": "1"}},
        {"args": EPOCH},
        {"labels": {"a": "b"}},
        {"tags": ("x:1",)},
        {"network": "none"},
        {"extra_hosts": (("a", "10.0.0.1"),)},
        {"shm_size": 1 << 20},
        {"ulimits": (("nofile", 64, 64),)},
    ]
    assert all(lab.builder.digest(order(lab, text, **fields)) == base for fields in same)
    digests = {lab.builder.digest(order(lab, text, **fields)) for fields in other}
    assert len(digests) == len(other) and base not in digests


def test_what_steps_get_by_the_order(lab: Lab) -> None:
    """Names, shared memory, limits and the network; a Dockerfile alone cannot have the host's."""
    (lab.context / "rootfs" / "bin" / "df").symlink_to("busybox")
    text = FROM_CONTEXT + "RUN cat /etc/hosts; df -k /dev/shm; ulimit -n; ip -o link\n"
    build(
        lab,
        text,
        extra_hosts=(("db", "10.9.8.7"), ("six", "fd00::1")),
        shm_size=1 << 20,
        ulimits=(("nofile", 77, 88),),
        network="none",
    )
    output = [" ".join(line.split()) for line in lab.output]
    assert {"10.9.8.7 db", "fd00::1 six", "77"} <= set(output)
    assert any(line.split()[1] == "1024" for line in output if line.endswith("/dev/shm"))
    assert [line for line in output if ": eth0" in line] == []
    with pytest.raises(BuildFailed, match="may not use the host's network"):
        build(lab, FROM_CONTEXT + "RUN --network=host true\n")
    build(lab, FROM_CONTEXT + "RUN --network=host ls -l /proc/self/ns/net\n", network="host")
    assert lab.output[-1].endswith(str(Path("/proc/self/ns/net").readlink()))


def test_a_cache_in_an_image(lab: Lab, tmp_path: Path) -> None:
    """Another host takes the layers from the registry; what an image says counts for the project that names it only."""
    text = "FROM scratch\nCOPY rootfs/bin/sh rootfs/bin/cat /bin/\nRUN cat /proc/sys/kernel/random/uuid > /u\nENV A=1\n"
    with Registry(base=tmp_path) as registry:
        name = f"{registry.address}/inline:1"
        entry = build(lab, text, tag=name, cache_to="inline")
        lab.images.push(name)
        plain = build(lab, text, tag=f"{registry.address}/plain:1")
        assert plain.id != entry.id, "the image tells of its steps"
        lab.images.push(f"{registry.address}/plain:1")
        (tmp_path / "other").mkdir()
        with open_builder_lab(tmp_path / "other") as other:
            other.add_rootfs()
            missing, useless = f"{registry.address}/gone:1", f"{registry.address}/plain:1"
            there = build(other, text, cache_from=(missing, useless, name), scope="shop", cache_to="inline")
            assert there.id == entry.id and len(other.cached) == 2
            warnings = [report.text for report in other.said if report.phase == "warning"]
            assert len(warnings) == 2 and "gone" in warnings[0] and "holds no build cache" in warnings[1]
            upon = build(other, f"FROM {name}\nRUN echo three\n", scope="shop")
            assert not other.image_config(upon).build_cache
            assert build(other, text, scope="other", cache_from=(useless,)).chains != entry.chains
            assert other.cached == []
