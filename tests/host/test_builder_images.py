"""Stages, the cache, the digest and bases; skopeo and umoci read what was built."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.builder.faults import BuildCancelled, BuildFailed, InvalidDockerfile
from agent.builder.files import stamps
from agent.builder.files.tree import FileTree
from agent.errors import NotFound, Refused, Stalled
from tests.host.builderlab import Lab, open_builder_lab
from tests.host.registry import Registry, busybox_layer

pytestmark = pytest.mark.host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_builder_lab(tmp_path) as opened:
        yield opened


STAGES = """ARG NAME=file
FROM scratch AS one
ARG NAME
COPY $NAME /one/file
FROM scratch AS unused
COPY does-not-exist /
FROM one AS two
ENV WHO=two
COPY --from=one /one /copied/
LABEL who=$WHO
"""


def test_stages_targets_and_arguments(lab: Lab) -> None:
    (lab.context / "file").write_text("default")
    (lab.context / "other").write_text("other")
    entry = lab.build(STAGES)
    assert lab.read(entry, "copied/file") == b"default"
    assert lab.image_config(entry).labels == {"who": "two"}
    assert len(lab.images.layers(entry.id)) == 2
    assert entry.names == ("docker.io/library/test:1",)
    one = lab.build(STAGES, target="one", tag="one:1")
    assert len(lab.images.layers(one.id)) == 1 and not lab.image_config(one).labels
    with pytest.raises(BuildFailed):
        lab.build(STAGES, target="unused")


def test_a_global_argument_must_be_declared_again(lab: Lab) -> None:
    (lab.context / "other").write_text("other")
    text = "ARG NAME\nFROM scratch\nARG NAME=none\nCOPY $NAME /f\n"
    assert lab.read(lab.build(text, args={"NAME": "other"}), "f") == b"other"
    with pytest.raises(BuildFailed, match="not in the context"):
        lab.build(text)
    lab.build("FROM scratch\n", args={"STRAY": "x"})
    assert [progress.text for progress in lab.said if progress.phase == "warning"] == [
        "the argument STRAY is given and no ARG of a stage that is built declares it"
    ]


def test_the_cache_goes_by_content(lab: Lab) -> None:
    text = "FROM scratch\nCOPY a /a\nCOPY d /d/\nWORKDIR /w\n"
    (lab.context / "d").mkdir()
    (lab.context / "a").write_text("a")
    (lab.context / "d" / "b").write_text("b")
    first = lab.build(text)
    assert lab.cached == []
    for path in lab.context.rglob("*"):
        os.utime(path, (1, 1))
        os.chown(path, 3, 4)
    assert lab.build(text).id == first.id
    assert lab.cached == ["COPY a /a", "COPY d /d/", "WORKDIR /w"]
    (lab.context / "d" / "b").write_text("c")
    changed = lab.build(text)
    assert lab.cached == ["COPY a /a"] and changed.id != first.id
    (lab.context / "d" / "b").write_text("b")
    (lab.context / "d" / "b").chmod(0o600)
    assert lab.build(text).id not in (first.id, changed.id)
    (lab.context / "d" / "b").chmod(0o644)
    assert lab.build(text).id == first.id


def test_the_same_inputs_give_the_same_image_anywhere(lab: Lab, tmp_path: Path) -> None:
    (lab.context / "d").mkdir()
    (lab.context / "d" / "b").write_text("b")
    text = "FROM scratch\nCOPY d /d/\nWORKDIR /d/w\nENV A=b\nHEALTHCHECK CMD x\n"
    first = lab.build(text)
    (tmp_path / "other").mkdir()
    with open_builder_lab(tmp_path / "other") as other:
        (other.context / "d").mkdir()
        (other.context / "d" / "b").write_text("b")
        assert other.build(text).id == first.id


def test_a_layer_that_is_gone_is_no_hit(lab: Lab) -> None:
    (lab.context / "a").write_text("a")
    first = lab.build("FROM scratch\nCOPY a /a\n")
    (blob,) = (layer.descriptor.digest for layer in lab.images.layers(first.id))
    lab.images.content.remove(blob)
    again = lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.cached == [] and again.id == first.id
    lab.images.remove(again.id)
    lab.images.prune(keep=lab.builder.kept_by_cache(), min_age=-1)
    lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.cached == ["COPY a /a"]
    lab.images.remove("test:1")
    lab.images.prune(min_age=-1)
    lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.cached == []


def test_a_pulled_image_never_fills_the_cache(lab: Lab) -> None:
    """Attack row 53: its history claims to be what the Dockerfile says."""
    (lab.context / "a").write_text("right")
    tree = lab.root / "forged"
    tree.mkdir()
    (tree / "a").write_text("forged")
    honest = lab.build("FROM scratch\nCOPY a /a\n", tag="honest:1")
    layer = lab.images.commit_layer(tree)
    lab.images.add_image(replace(lab.image_config(honest)), [layer], "forged:1")
    assert layer.descriptor.digest not in lab.builder.kept_by_cache()
    lab.builder._cache.forget(-1)
    entry = lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.read(entry, "a") == b"right" and lab.cached == []


def test_configuration_is_never_cached(lab: Lab) -> None:
    """Attack row 53: HEALTHCHECK, ONBUILD and USER are in the image, also when every layer was there."""
    (lab.context / "a").write_text("a")
    ids = [
        lab.build(f"FROM scratch\nCOPY a /a\n{line}\n").id
        for line in ("", "USER 5", "HEALTHCHECK CMD x", "HEALTHCHECK NONE", "STOPSIGNAL INT", "VOLUME /v", "ENV A=1",
                     "ONBUILD RUN x", 'SHELL ["x"]', "MAINTAINER x")
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert lab.cached == ["COPY a /a"]


def test_digest_changes_with_what_is_read_and_nothing_else(lab: Lab) -> None:
    text = "ARG V\nFROM scratch\nARG V\nCOPY a* /\nCOPY --from=host busybox /\n"
    for name in ("a", "unread"):
        (lab.context / name).write_text(name)
    base = lab.digest(text, args={"V": "1"})
    (lab.context / "unread").write_text("changed")
    (lab.tools / "unread").write_text("changed")
    os.utime(lab.context / "a", (1, 1))
    assert lab.digest(text, args={"V": "1", "UNUSED": "x"}) == base
    seen = {base}

    def differs(found: str) -> None:
        assert found not in seen
        seen.add(found)

    differs(lab.digest(text, args={"V": "2"}))
    (lab.context / "a").write_text("b")
    differs(lab.digest(text, args={"V": "1"}))
    (lab.context / "a2").write_text("more")
    differs(lab.digest(text, args={"V": "1"}))
    (lab.context / ".dockerignore").write_text("a2\n")
    (lab.context / "a").write_text("a")
    assert lab.digest(text, args={"V": "1"}) == base
    (lab.tools / "busybox").chmod(0o700)
    differs(lab.digest(text, args={"V": "1"}))
    differs(lab.digest(text + "# comment\n", args={"V": "1"}))
    assert lab.build(text, args={"V": "1"}).id
    with pytest.raises(BuildFailed, match="Dockerfile:2:1: COPY"):
        lab.digest("FROM scratch\nCOPY nothing /\n")


def test_unchanged_files_are_not_read_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.context / "d").mkdir()
    for number in range(20):
        (lab.context / "d" / str(number)).write_text(str(number))
    text = "FROM scratch\nCOPY d /d/\nCOPY --from=host busybox /\n"
    config = lab.config(text)
    monkeypatch.setattr(stamps, "_SETTLED_NS", 50_000_000)
    time.sleep(0.06)
    first = lab.builder.digest(config)
    reads: list[object] = []
    original = FileTree._read
    monkeypatch.setattr(FileTree, "_read", lambda tree, fd: (reads.append(fd), original(tree, fd))[1])
    assert lab.builder.digest(config) == first
    assert reads == []
    (lab.context / "d" / "7").write_text("8")
    assert lab.builder.digest(config) != first
    assert len(reads) == 1


def test_bases_from_a_registry(lab: Lab) -> None:
    with Registry() as registry:
        reference = registry.push_layers(
            "base:1", [busybox_layer({"etc/note": b"from the base"})], config={"Env": ["FROM_BASE=yes"], "Cmd": ["x"]}
        )
        (lab.context / "f").write_text("f")
        text = f"FROM {reference} AS b\nCOPY f /$FROM_BASE\nFROM scratch\nCOPY --from={reference} /etc/note /n\n"
        before = lab.digest(text, target="b")
        entry = lab.build(text, target="b")
        assert lab.digest(text, target="b") != before
        assert "yes" in lab.layer(entry) and lab.image_config(entry).cmd == ("x",)
        other = lab.build(text, tag="other:1")
        assert lab.read(other, "n") == b"from the base"
        pinned = lab.build("FROM anything\n", contexts={"anything": f"docker-image://{reference}"}, tag="third:1")
        assert lab.image_config(pinned).env == ("FROM_BASE=yes",)
        triggers = ["COPY f /triggered", "ENV FROM_TRIGGER=1"]
        base = registry.push_layers("onbuild:1", [busybox_layer()], config={"OnBuild": triggers, "Shell": ["/x", "-y"]})
        entry = lab.build(f"FROM {base}\nCMD z\n", tag="triggered:1")
        config = lab.image_config(entry)
        assert "triggered" in lab.layer(entry) and config.env == ("FROM_TRIGGER=1",)
        assert config.cmd == ("/x", "-y", "z") and config.on_build == ()
        for number, trigger in enumerate(("FROM x", "ONBUILD RUN x", "COPY --from=0 a b", "COPY a", "NOTHING x", "")):
            hostile = registry.push_layers(f"hostile:{number}", [busybox_layer()], config={"OnBuild": [trigger]})
            with pytest.raises(BuildFailed, match="ONBUILD"):
                lab.build(f"FROM scratch\nFROM {hostile}\n")


def test_a_directory_is_a_base(lab: Lab) -> None:
    text = "FROM host AS tools\nENV A=1\nFROM tools\nCOPY --from=tools /busybox /again\n"
    before = lab.digest(text)
    entry = lab.build(text)
    assert set(lab.layer(entry, 0)) == {"busybox"} and set(lab.layer(entry, 1)) == {"again"}
    config = lab.image_config(entry)
    assert config.env[-1] == "A=1" and config.history[0].created_by == "FROM host AS tools"
    (lab.tools / "more").write_text("more")
    assert lab.digest(text) != before


def test_other_tools_read_the_image(lab: Lab, tmp_path: Path) -> None:
    lab.add_rootfs()
    entry = lab.build(
        'FROM scratch\nCOPY rootfs /\nENV A="b c"\nWORKDIR /w\nUSER app\nEXPOSE 80\nLABEL l=v\nCMD ["sh"]\n',
        tag="out:1",
    )
    layout = f"oci:{lab.images.content.root}:docker.io/library/out:1"
    run = subprocess.run(["skopeo", "inspect", "--config", layout], capture_output=True, text=True, check=True)
    seen = json.loads(run.stdout)
    assert seen["config"]["Env"][1] == "A=b c" and seen["config"]["WorkingDir"] == "/w"
    assert seen["config"]["User"] == "app" and seen["config"]["Cmd"] == ["sh"]
    assert seen["config"]["ExposedPorts"] == {"80/tcp": {}} and seen["created"] == "1970-01-01T00:00:00Z"
    subprocess.run(["skopeo", "copy", "-q", layout, f"oci:{tmp_path}/copy:out"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/copy:out", str(tmp_path / "bundle")], check=True)
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "bin" / "busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    assert (root / "bin" / "sh").readlink() == Path("busybox") and (root / "w").is_dir()
    assert [h.created_by for h in lab.image_config(entry).history][:2] == ["COPY rootfs /", 'ENV A="b c"']


def test_argument_values_are_in_no_history_and_no_record(lab: Lab) -> None:
    """Attack row 38."""
    (lab.context / "a").write_text("a")
    entry = lab.build("FROM scratch\nARG TOKEN\nCOPY a /a\n", args={"TOKEN": "planted-secret"})
    assert entry.names
    lab.check_clean()
    lab.images.close()
    for path in (lab.root / "data").rglob("*"):
        if path.is_file():
            assert b"planted-secret" not in path.read_bytes(), path


def test_cancelled_builds_stop(lab: Lab) -> None:
    (lab.context / "a").write_text("a")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(BuildCancelled):
        lab.build("FROM scratch\nCOPY a /a\n", cancel)
    assert lab.images.all() == ()
    lab.check_clean()


def test_contexts_and_dockerfiles_that_are_not_there(lab: Lab) -> None:
    config = lab.config("FROM scratch\nCOPY --from=gone a /\n", contexts={"gone": str(lab.root / "gone")})
    with pytest.raises(Stalled, match=r"the context .*gone cannot be used"):
        lab.builder.build(config)
    with pytest.raises(NotFound, match="there is no"):
        lab.builder.build(replace(config, dockerfile="nothing"))
    with pytest.raises(Stalled, match="outside of the context"):
        lab.builder.build(replace(config, dockerfile="../Dockerfile"))
    (lab.context / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotFound):
        lab.builder.build(replace(config, dockerfile="link"))
    with pytest.raises(Stalled):
        lab.builder.build(replace(config, context=str(lab.root / "nowhere")))


def test_checks_warn_or_end_the_build(lab: Lab) -> None:
    """BuildKit's build checks, and the directive ``check``."""

    def warnings(dockerfile: str, **fields: Any) -> list[str]:
        lab.build(dockerfile, **fields)
        return [progress.text for progress in lab.said if progress.phase == "warning"]

    (lab.context / "left").write_text("out")
    (lab.context / ".dockerignore").write_text("lost\n")
    lab.build("FROM scratch\nENV IN_BASE=1\n", tag="base:1")
    text = "FROM base:1\nARG GIVEN\nENV A=$IN_BASE B=$GIVEN C=${NOWHERE:-x} D=$IN_BAES\nCMD run me\nCOPY . /\n"
    wanted = [
        "JSONArgsRecommended: a shell runs the CMD, and passes no signals on (line 4)",
        "UndefinedVar: no ARG or ENV declares IN_BAES; did you mean IN_BASE? (line 3)",
    ]
    assert warnings(text) == wanted
    assert warnings(f"# check=skip=JSONArgsRecommended\n{text}") == [wanted[1].replace("line 3", "line 4")]
    assert warnings(f"# check=skip=all;error=true\n{text}") == []
    assert warnings(text, args={"BUILDKIT_DOCKERFILE_CHECK": "skip=UndefinedVar,Nothing"}) == [
        "check: there is no check called Nothing", wanted[0],
    ]  # fmt: skip
    with pytest.raises(InvalidDockerfile, match=r"Dockerfile:5:1: JSONArgsRecommended") as caught:
        lab.build(f"# check=error=true\n{text}CMD again\n")
    assert len(caught.value.problems) == 3 and not lab.cached
    with pytest.raises(InvalidDockerfile, match=r"Dockerfile:4:1: UndefinedVar.*IN_BAES"):
        lab.build(f"# check=skip=JSONArgsRecommended;error=true\n{text}")
    with pytest.raises(InvalidDockerfile, match="CopyIgnoredFile: lost is left out"):
        lab.build("# check=error=true\nFROM scratch\nCOPY lost /\n")
    with pytest.raises(Refused, match="error is true or false"):
        lab.build(text, args={"BUILDKIT_DOCKERFILE_CHECK": "error=maybe"})
