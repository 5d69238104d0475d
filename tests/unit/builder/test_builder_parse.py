from __future__ import annotations

import pytest

from agent.builder import instructions as ins
from agent.builder.faults import InvalidDockerfile
from agent.builder.instructions import Command, Dockerfile, Instruction
from agent.builder.parse import MAX_DOCKERFILE, MAX_INSTRUCTIONS, decode_dockerfile, parse_dockerfile


def parse(text: str) -> Dockerfile:
    return parse_dockerfile(text, "Dockerfile")


def instruction(text: str) -> Instruction:
    (found,) = parse(f"FROM scratch\n{text}\n").stages[0].instructions
    return found


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidDockerfile) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


def test_stages_and_arguments_before_them() -> None:
    found = parse("ARG V=1 W\nFROM --platform=$P a:$V AS Build\nRUN x\nfrom build\n")
    assert found.arguments[0].pairs == (("V", "1"), ("W", None))
    assert [(s.origin.image, s.origin.name, s.origin.platform) for s in found.stages] == [
        ("a:$V", "build", "$P"),
        ("build", "", ""),
    ]
    assert [len(stage.instructions) for stage in found.stages] == [1, 0]


def test_continuations_comments_and_places() -> None:
    text = "FROM scratch\n\n  RUN one && \\\n# a comment\n\n     two \\\n  && three\nCMD x"
    run, cmd = parse(text).stages[0].instructions
    assert isinstance(run, ins.Run)
    assert run.command == Command(("one &&      two   && three",), shell=True)
    assert (run.line, run.column, cmd.line) == (3, 3, 8)


def test_only_a_single_escape_continues() -> None:
    first, second = parse("FROM scratch\nRUN a\\\\\nRUN b \\  \n  c\n").stages[0].instructions
    assert isinstance(first, ins.Run) and isinstance(second, ins.Run)
    assert first.command.words == ("a\\\\",)
    assert second.command.words == ("b   c",)


def test_windows_line_ends_and_byte_order_mark() -> None:
    found = decode_dockerfile(b"\xef\xbb\xbfFROM scratch\r\nENV A=b\r\n", "Dockerfile")
    assert found.stages[0].instructions[0].text == "ENV A=b"


def test_escape_directive() -> None:
    found = parse("# escape=`\nFROM scratch\nRUN a `\n b\nENV P=C:\\dir\n")
    assert found.escape == "`"
    assert [i.text for i in found.stages[0].instructions] == ["RUN a  b", "ENV P=C:\\dir"]


@pytest.mark.parametrize(
    "line", ["# syntax=docker/dockerfile:1", "#syntax = docker.io/docker/dockerfile:1.7", "# check=skip=all"]
)
def test_directives_that_ask_for_nothing_else(line: str) -> None:
    assert parse(f"{line}\nFROM scratch").stages


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("# syntax=evil/frontend", "not supported"),
        ("# syntax=docker/dockerfile:1-labs", "not supported"),
        ("# syntax=docker/dockerfile:1@sha256:00", "not supported"),
        ("# escape=x", "escape must be"),
        ("# check=error=true", "skip="),
        ("# other=1\n# syntax=evil/frontend", "not supported"),
    ],
)
def test_foreign_frontends_are_refused(line: str, fault: str) -> None:
    """Attack row 56."""
    assert fault in problems(f"{line}\nFROM scratch")[0]


def test_a_comment_ends_the_directives() -> None:
    assert parse("# just a comment\n# escape=`\nFROM scratch\nRUN a \\\n b").escape == "\\"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('ENV A=1 B="x y" C=a\\ b', (("A", "1"), ("B", '"x y"'), ("C", "a\\ b"))),
        ("ENV OLD some  value", (("OLD", "some  value"),)),
        ("LABEL a.b=c 'k k'=v", (("a.b", "c"), ("'k k'", "v"))),
    ],
)
def test_pairs(text: str, wanted: tuple[tuple[str, str], ...]) -> None:
    found = instruction(text)
    assert isinstance(found, ins.Env | ins.Label)
    assert found.pairs == wanted


def test_copy() -> None:
    found = instruction('COPY --from=build --chown="a:b" --chmod=0755 a b* /c/')
    assert isinstance(found, ins.Copy)
    assert (found.origin, found.owner, found.mode, found.sources, found.destination) == (
        "build",
        "a:b",
        "0755",
        ("a", "b*"),
        "/c/",
    )
    listed = instruction('COPY ["a file", "/with space/"]')
    assert isinstance(listed, ins.Copy) and listed.sources == ("a file",)


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("CMD echo $HOME", ("/bin/sh", "-c", "echo $HOME")),
        ('CMD ["a", "b\\u00e9"]', ("a", "bé")),
        ("CMD [not json", ("/bin/sh", "-c", "[not json")),
        ("CMD []", ()),
        ('ENTRYPOINT [ "a" ]', ("a",)),
    ],
)
def test_commands(text: str, args: tuple[str, ...]) -> None:
    found = instruction(text)
    assert isinstance(found, ins.Cmd | ins.Entrypoint)
    assert found.command.render() == args


def test_healthcheck() -> None:
    found = instruction("HEALTHCHECK --interval=1m30s --timeout=2.5s --retries=4 CMD curl -f x")
    assert isinstance(found, ins.Healthcheck)
    assert found.check == {
        "Test": ["CMD-SHELL", "curl -f x"],
        "Interval": 90_000_000_000,
        "Timeout": 2_500_000_000,
        "Retries": 4,
    }
    none = instruction("HEALTHCHECK none")
    assert isinstance(none, ins.Healthcheck) and none.check == {"Test": ["NONE"]}


def test_all_problems_come_at_once_with_their_places() -> None:
    text = """RUN early
FROM scratch
ADD a b
RUN --mount=type=bind,source=../..,target=/x true
ONBUILD RUN x
SHELL ["bash"]
COPY \\
  --link a b
COPPY a b
COPY a
ENV A="unclosed
ENV B=${C
RUN <<EOF
FROM inside
EOF
USER
COPY --from=$X a b
COPY --chmod=u+x a b
CMD ["a", 1]
HEALTHCHECK --interval=soon CMD x
FROM a b c
"""
    found = problems(text)
    assert [problem.split(": ", 1)[0].removeprefix("Dockerfile:") for problem in found] == [
        "1:1", "3:1", "4:5", "5:1", "6:1", "8:3", "9:1", "10:1", "11:5", "12:9", "13:5", "16:1",
        "17:6", "18:6", "19:5", "20:13", "21:1",
    ]  # fmt: skip
    assert "ADD is not supported yet" in found[1]
    assert "--mount is not supported yet" in found[2]
    assert "did you mean COPY?" in found[6]
    assert "here-documents are not supported yet" in found[10]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "no FROM"),
        (b"# only a comment\n", "no FROM"),
        (b"FROM a\0b", "NUL"),
        (b"FROM \xff", "UTF-8"),
        (b"FROM scratch\n" + b"# x" * MAX_DOCKERFILE, "longer than"),
        (b"FROM scratch\n" + b"RUN x\n" * (MAX_INSTRUCTIONS + 1), "more than 2000 instructions"),
        (b"FROM a AS x\nFROM b AS X", "a stage x already"),
        (b"FROM a AS 1x", "not a name"),
        (b"FROM a AS scratch", "not a name"),
        (b"FROM scratch\nARG 1A", "not a name"),
        (b"FROM scratch\nEXPOSE", "a port is missing"),
        (b"FROM scratch\nCOPY --chown=a --chown=b x y", "given twice"),
    ],
)
def test_what_is_no_dockerfile(data: bytes, fault: str) -> None:
    with pytest.raises(InvalidDockerfile, match=fault):
        decode_dockerfile(data, "Dockerfile")
