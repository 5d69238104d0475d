from __future__ import annotations

from typing import Any

import pytest

from agent.builder.dockerfile.parse import parse_dockerfile
from agent.builder.dockerfile.stages import BuildPlan, compute_plan
from agent.builder.dockerfile.state import (
    CopyStep,
    DirectoryStep,
    RunStep,
    StageState,
    Step,
    create_scratch_config,
)
from agent.builder.faults import InvalidDockerfile
from agent.engine.model import BuildConfig
from agent.oci.imageconfig import ImageConfig
from agent.oci.platform import Platform

HOST = Platform("linux", "amd64")


def plan(text: str, **order: Any) -> BuildPlan:
    return compute_plan(parse_dockerfile(text, "Dockerfile"), BuildConfig("/context", "t", **order), HOST)


def origins(text: str, **order: Any) -> list[tuple[str, str, int]]:
    found = plan(text, **order)
    places = [origin for stage in found.stages for origin in (stage.origin, *stage.copies.values())]
    return [(origin.kind.value, origin.name, origin.stage) for origin in places]


def take(text: str, base: ImageConfig | None = None, **order: Any) -> tuple[ImageConfig, list[Step]]:
    """The config and the steps of a single-stage file."""
    dockerfile = parse_dockerfile(text, "Dockerfile")
    config = BuildConfig("/context", "t", **order)
    found = compute_plan(dockerfile, config, HOST)
    state = StageState("Dockerfile", dockerfile.escape, found, config.args, base or create_scratch_config(HOST))
    steps = [state.take(instruction, found.stages[0]) for instruction in found.stages[0].instructions]
    return state.config, [step for step in steps if step is not None]


def test_origins() -> None:
    copies = "".join(f"COPY {source}x /\n" for source in ("", "--from=A ", "--from=0 ", "--from=host ", "--from=img "))
    text = f"FROM scratch AS a\nFROM a\n{copies}"
    assert origins(text, additional_contexts={"host": "/usr/bin"}) == [
        ("scratch", "", -1),
        ("stage", "", 0),
        ("context", "", -1),
        ("stage", "", 0),
        ("stage", "", 0),
        ("context", "host", -1),
        ("image", "docker.io/library/img:latest", -1),
    ]


def test_a_context_comes_before_a_stage_and_an_image() -> None:
    text = "FROM busybox AS tools\nFROM scratch\nCOPY --from=tools x /"
    assert origins(text, additional_contexts={"tools": "/opt"}) == [("scratch", "", -1), ("context", "tools", -1)]
    pinned = {"busybox": "docker-image://registry.local/other:2"}
    assert origins("FROM busybox", additional_contexts=pinned) == [("image", "registry.local/other:2", -1)]


def test_only_needed_stages_are_built() -> None:
    text = "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one x /\nFROM d AS four"
    assert [stage.index for stage in plan(text, target="three").stages] == [0, 2]
    assert [stage.index for stage in plan(text, target="1").stages] == [1]
    assert [stage.index for stage in plan(text).stages] == [3]


def test_arguments_of_from() -> None:
    text = "ARG V=1\nARG N=img:$V\nFROM $N"
    assert origins(text) == [("image", "docker.io/library/img:1", -1)]
    assert origins(text, args={"V": "2"}) == [("image", "docker.io/library/img:2", -1)]
    assert origins("FROM --platform=$BUILDPLATFORM x-$TARGETARCH")[0][1] == "docker.io/library/x-amd64:latest"


@pytest.mark.parametrize(
    ("text", "order", "fault"),
    [
        ("FROM $NOTHING", {}, "is empty"),
        ("FROM --platform=linux/s390x a", {}, "platform linux/s390x is not this host's"),
        ("FROM Upper/x/../y", {}, "not an image reference"),
        ("FROM scratch\nCOPY --from=5 a b", {}, "no earlier stage"),
        ("FROM scratch\nCOPY --from=0 a b", {}, "no earlier stage"),
        ("FROM scratch\nCOPY --from=scratch a b", {}, "nothing to copy"),
        ("FROM a", {"target": "x"}, "no stage"),
        ("FROM a", {"target": "9" * 5000}, "no stage"),
        ("ARG A=${B:?needed}\nFROM a", {}, "B: needed"),
    ],
)
def test_what_leads_nowhere(text: str, order: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidDockerfile, match=fault):
        plan(text, **order)


def test_variables_in_a_stage() -> None:
    text = """ARG G=global
FROM scratch
ARG G
ARG A=default B
ENV A=env C=$A-$B D=$G
ENV A=new E=$A
RUN true"""
    config, steps = take(text, args={"B": "given", "A": "overridden"})
    assert dict(entry.split("=", 1) for entry in config.env if not entry.startswith("PATH=")) == {
        "A": "new",
        "C": "overridden-given",
        "D": "global",
        "E": "env",
    }
    assert isinstance(steps[0], RunStep)
    assert steps[0].env["A"] == "new" and steps[0].env["B"] == "given"


def test_undeclared_arguments_are_not_seen() -> None:
    _, steps = take("FROM scratch\nRUN true", args={"SECRET": "x", "http_proxy": "p"})
    assert isinstance(steps[0], RunStep)
    assert "SECRET" not in steps[0].env and dict(steps[0].proxies) == {"http_proxy": "p"}


def test_malformed_image_variables_are_dropped() -> None:
    """Attack row 23."""
    base = ImageConfig("amd64", "linux", env=("SECRET", "*", "A=", "=x", "B=1"))
    config, steps = take("FROM scratch\nENV C=$SECRET\nRUN true", base)
    assert config.env == ("A=", "B=1", "C=")
    assert isinstance(steps[0], RunStep)
    assert dict(steps[0].env).keys() == {"A", "B", "C", "PATH"}


def test_configuration() -> None:
    text = """FROM scratch
WORKDIR /a
WORKDIR b/../c
ARG U=me P=90
USER $U:app
ENTRYPOINT ["x"]
CMD y
EXPOSE 53/UDP 8000-8002 $P 127.0.0.1:8080:80
VOLUME /data "/other"
STOPSIGNAL SIGRTMIN+3
LABEL a=b c="d e"
COPY f .
COPY f g /abs/../there/"""
    base = ImageConfig("amd64", "linux", cmd=("base",), labels={"kept": "1"}, exposed_ports=("22/tcp",))
    config, steps = take(text, base)
    assert config.working_dir == "/a/c" and config.user == "me:app"
    assert config.entrypoint == ("x",) and config.cmd == ("/bin/sh", "-c", "y")
    assert config.exposed_ports == ("22/tcp", "53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp", "90/tcp")
    assert config.volumes == ("/data", "/other") and config.stop_signal == "SIGRTMIN+3"
    assert config.labels == {"kept": "1", "a": "b", "c": "d e"}
    assert [step.path for step in steps if isinstance(step, DirectoryStep)] == ["/a", "/a/c"]
    assert [step.destination for step in steps if isinstance(step, CopyStep)] == ["/a/c/", "/there/"]


def test_an_entrypoint_clears_the_base_command_only() -> None:
    base = ImageConfig("amd64", "linux", cmd=("base",))
    assert take('FROM scratch\nENTRYPOINT ["x"]', base)[0].cmd is None
    assert take('FROM scratch\nCMD ["own"]\nENTRYPOINT ["x"]', base)[0].cmd == ("own",)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("EXPOSE 70000", "not a port"),
        ("EXPOSE 10-5", "not a port"),
        ("EXPOSE host:80", "not a port"),
        ("STOPSIGNAL SIGNOTHING", "not a signal"),
        ("STOPSIGNAL 99", "not a signal"),
        ("USER $NOTHING", "expands to nothing"),
        ("COPY a b c", "must end in /"),
        ("ARG M=u+y\nCOPY --chmod=$M a b", "octal"),
        ("ENV A=${B:?needed}", "B: needed"),
    ],
)
def test_values_that_make_no_sense(line: str, fault: str) -> None:
    with pytest.raises(InvalidDockerfile, match=fault) as caught:
        take(f"FROM scratch\n{line}")
    assert caught.value.problems[0].line == 1 + len(line.splitlines())
