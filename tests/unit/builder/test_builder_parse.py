from __future__ import annotations

import pytest

from agent.builder.dockerfile import instructions as ins
from agent.builder.dockerfile.instructions import Command, Dockerfile, Instruction
from agent.builder.dockerfile.parse import (
    MAX_DOCKERFILE,
    MAX_INSTRUCTIONS,
    decode_dockerfile,
    parse_dockerfile,
    parse_trigger,
)
from agent.builder.faults import InvalidDockerfile


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
    "line",
    [
        "# syntax=docker/dockerfile:1",
        "#syntax = docker.io/docker/dockerfile:1.7",
        "# check=skip=all",
        "# check=error=false;experimental=all",
        "# syntax=docker/dockerfile:1-labs",
    ],
)
def test_directives_that_ask_for_nothing_else(line: str) -> None:
    assert parse(f"{line}\nFROM scratch").stages


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("# syntax=evil/frontend", "not supported"),
        ("# syntax=docker/dockerfile:1@sha256:00", "not supported"),
        ("# escape=x", "escape must be"),
        ("# check=error=maybe", "error is true or false"),
        ("# check=experiment=all", "is none of skip=NAME"),
        ("# check=skip=a;skip=b", "skip is given twice"),
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
ADD --keep-git-dir=perhaps a b
RUN --mount=type=bind true
RUN --mount=type=none,target=/x true
ONBUILD FROM x
SHELL /bin/bash
COPY \\
  --links a b
COPPY a b
COPY a
ENV A="unclosed
ENV B=${C
RUN <<EOF
FROM inside
EOF
USER
COPY --from=$X a b
COPY --chmod=u+y a b
CMD ["a", 1]
HEALTHCHECK --interval=soon CMD x
FROM a b c
RUN --security=insecure x
RUN --network=bridge x
ADD git@x.example:y.git /x
ONBUILD COPY a
RUN --mount=type=secret,from=x,id=y z
COPY <<EOF /x
never closed
"""
    found = problems(text)
    assert [problem.split(": ", 1)[0].removeprefix("Dockerfile:") for problem in found] == [
        "1:1", "3:5", "5:5", "6:1", "7:1", "9:3", "10:1", "11:1", "12:5", "13:9", "17:1",
        "18:6", "19:6", "20:5", "21:13", "22:1", "23:5", "24:5", "25:1", "26:1", "27:5", "28:6",
    ]  # fmt: skip
    assert "did you mean --link?" in found[5]
    assert "did you mean COPY?" in found[6]
    assert "ONBUILD: COPY: at least one source" in found[19]
    assert "EOF is missing" in found[21]


def test_here_documents() -> None:
    text = """FROM scratch
RUN <<EOF
echo $A
FROM x
EOF
COPY <<-"ab" <<c source /d/
	tabs $X
	ab
two
c
RUN cat <<E1 3<<-E2 > /out
one
E1
	two
	E2
RUN <<S
#!/bin/sh -e
true
S
RUN echo "<<EOF" && echo it's
"""
    stage = parse(text).stages[0]
    first, copied, second, script, third = stage.instructions
    assert isinstance(first, ins.Run) and first.command == Command(("echo $A\nFROM x\n",), shell=True)
    assert isinstance(copied, ins.Copy) and (copied.sources, copied.destination) == (("source",), "/d/")
    assert [(doc.name, doc.text, doc.expand) for doc in copied.heredocs] == [
        ("ab", "tabs $X\n", False),
        ("c", "two\n", True),
    ]
    assert isinstance(second, ins.Run)
    assert second.command.words == ("cat <<E1 3<<-E2 > /out\none\nE1\n\ttwo\nE2\n",)
    assert isinstance(script, ins.Run) and script.command.words == ("/dev/pipes/S",)
    assert script.script is not None and script.script.text == "#!/bin/sh -e\ntrue\n"
    assert isinstance(third, ins.Run) and third.command.words == ("""echo "<<EOF" && echo it's""",)


def test_mounts() -> None:
    found = instruction(
        "RUN --mount=target=/a --mount=type=cache,dst=/b,id=x,sharing=locked,ro --network=none "
        """--mount='type=secret,id=s,"target=/c,d",required' --mount=type=bind,from=stage,src=/x,target=$T,rw make"""
    )
    assert isinstance(found, ins.Run) and found.network == "none"
    assert [(one.type, dict(one.fields), one.origin) for one in found.mounts] == [
        ("bind", {"target": "/a"}, ""),
        ("cache", {"target": "/b", "id": "x", "sharing": "locked", "readonly": "true"}, ""),
        ("secret", {"id": "s", "target": "/c,d", "required": "true"}, ""),
        ("bind", {"source": "/x", "target": "$T", "readwrite": "true"}, "stage"),
    ]


def test_add() -> None:
    digest = "sha256:" + "0" * 64
    found = instruction(f"ADD --checksum={digest} --unpack=false --link --exclude=*.o --exclude='a b' https://x/y /z")
    assert isinstance(found, ins.Add)
    assert (found.checksum, found.unpack, found.link, found.parents) == (digest, False, True, False)
    assert found.excludes == ("*.o", "a b") and found.sources == ("https://x/y",)


def test_triggers_keep_their_here_documents() -> None:
    found = parse("FROM scratch\nONBUILD RUN <<EOF\nFROM x\nEOF\nUSER a\n").stages[0].instructions
    assert isinstance(found[0], ins.OnBuild) and len(found) == 2
    trigger = parse_trigger(found[0].trigger, "\\")
    assert isinstance(trigger, ins.Run) and trigger.command.words == ("FROM x\n",)


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
        (b"FROM a AS 1st", "not a name"),
        (b"FROM scratch\nARG 1A", "not a name"),
        (b"FROM scratch\nEXPOSE", "a port is missing"),
        (b"FROM scratch\nCOPY --chown=a --chown=b x y", "given twice"),
    ],
)
def test_what_is_no_dockerfile(data: bytes, fault: str) -> None:
    with pytest.raises(InvalidDockerfile, match=fault):
        decode_dockerfile(data, "Dockerfile")
