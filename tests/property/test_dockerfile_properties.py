"""Any text is a Dockerfile or a list of its problems; nothing else ever comes out."""

from __future__ import annotations

import posixpath
import re

from hypothesis import given
from hypothesis import strategies as st

from agent.builder.dockerfile.expansion import MAX_RESULT, ExpansionError, expand
from agent.builder.dockerfile.parse import decode_dockerfile, parse_dockerfile
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.dockerfile.state import StageState, create_scratch_config
from agent.builder.dockerfile.steps import CopyStep, RunStep
from agent.builder.faults import InvalidDockerfile
from agent.builder.patterns.globclasses import BadPattern
from agent.builder.patterns.globs import remove_prefix, remove_suffix, replace
from agent.builder.patterns.patterns import IgnoreRules, compile_segment
from agent.engine.model import BuildConfig
from agent.oci.platform import Platform

HOST = Platform("linux", "amd64")
KEYWORDS = (
    *("FROM", "ARG", "ENV", "COPY", "RUN", "CMD", "ENTRYPOINT", "WORKDIR", "USER", "LABEL", "EXPOSE", "ADD"),
    *("ONBUILD", "SHELL", "HEALTHCHECK", "MAINTAINER", "STOPSIGNAL", "VOLUME"),
)
WORDS = (
    *(
        "scratch",
        "AS",
        "a",
        "b/../c",
        "..",
        "/",
        "*",
        "80/tcp",
        "<<END",
        "<<-'E'",
        "END",
        "E",
        "--from=x",
        "--chown=1:1",
    ),
    *("--mount=", "type=cache,", "type=secret,", "target=/x", "source=../..", "id=a", "--network=none", "--link"),
    *("--parents", "--exclude=**", "--chmod=u=rwX", "--checksum=", "http://x/y", "https://", '["a"]', "CMD-SHELL"),
)
SIGNS = (
    " ",
    " ",
    "\n",
    "\\\n",
    "=",
    "$A",
    "${A:-b}",
    "${A##*/}",
    "${A//",
    "${",
    "}",
    '"',
    "'",
    "[",
    "]",
    "# escape=`\n",
    "# x\n",
    "\t",
    "é",
    "\r",
)
PIECES = st.sampled_from([*KEYWORDS, *WORDS, *SIGNS])
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=60).map("".join))
FILES = st.one_of(TEXTS, TEXTS.map(lambda text: f"FROM scratch\n{text}"))


@given(FILES)
def test_any_text_parses_or_names_its_problems(text: str) -> None:
    order = BuildConfig("/context", "t", args={"A": "x"}, additional_contexts={"x": "/usr/bin"})
    lines = text.count("\n") + 1
    try:
        dockerfile = parse_dockerfile(text, "Dockerfile")
        plan = compute_plan(dockerfile, order, HOST)
        for stage in plan.stages:
            state = StageState("Dockerfile", dockerfile.escape, plan, order.args, create_scratch_config(HOST))
            for instruction in stage.instructions:
                assert 1 <= instruction.line <= lines
                step = state.take(instruction, stage)
                if isinstance(step, CopyStep):
                    assert step.destination.startswith("/") and ".." not in step.destination.split("/")
                if isinstance(step, RunStep):
                    for mount in step.mounts:
                        assert mount.target.startswith("/") or not mount.target
                        assert ".." not in mount.target.split("/") and mount.target != "/"
    except InvalidDockerfile as error:
        assert error.problems
        assert all(0 <= problem.line <= lines and problem.message for problem in error.problems)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_name_their_problems(data: bytes) -> None:
    try:
        assert decode_dockerfile(data, "Dockerfile").stages
    except InvalidDockerfile as error:
        assert error.problems


@given(st.text(max_size=80), st.dictionaries(st.sampled_from("ABC"), st.text(max_size=20)))
def test_expansion_is_total_and_bounded(text: str, variables: dict[str, str]) -> None:
    try:
        assert len(expand(text, variables)) <= MAX_RESULT
    except ExpansionError as error:
        assert 0 <= error.offset <= len(text)


@given(st.text(max_size=40))
def test_quoted_text_is_itself(text: str) -> None:
    assert expand("".join(f"\\{character}" for character in text), {}) == text
    if "'" not in text:
        assert expand(f"'{text}'", {}) == text


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=10))
def test_globs_agree_with_a_plain_regular_expression(glob: str, name: str) -> None:
    plain = "".join({"*": ".*", "?": "."}.get(character, character) for character in glob)
    assert (compile_segment(glob).match(name) is not None) == (re.fullmatch(plain, name) is not None)


SEGMENTS = st.sampled_from(["a", "b", "*", "**", "a*"])


@given(st.lists(SEGMENTS, min_size=1, max_size=4), st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4))
def test_ignore_rules_agree_with_a_plain_regular_expression(segments: list[str], path: list[str]) -> None:
    pattern = posixpath.normpath("/".join(segments))
    plain = ""
    parts = pattern.split("/")
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            plain += ".+" if last else "(?:[^/]+/)*"
        else:
            plain += part.replace("*", "[^/]*") + ("" if last else "/")
    rules = IgnoreRules([pattern])
    assert rules.match(path) == (re.fullmatch(plain, "/".join(path)) is not None,)


@given(st.text(max_size=60))
def test_any_ignore_line_is_a_rule_or_a_fault(line: str) -> None:
    try:
        rules = IgnoreRules([line])
    except BadPattern:
        return
    assert isinstance(rules.excludes(rules.match(["a", "b"])), bool)


GLOBS = st.text(alphabet="ab*?", max_size=6)


@given(st.text(alphabet="abc", max_size=8), GLOBS, st.booleans())
def test_patterns_in_variables_agree_with_a_plain_regular_expression(value: str, glob: str, longest: bool) -> None:
    plain = "".join({"*": ".*" if longest else ".*?", "?": "."}.get(character, character) for character in glob)
    match = re.match(plain, value)
    assert remove_prefix(value, glob, longest=longest) == (value[match.end() :] if match else value)
    ends = [end for end in range(len(value) + 1) if re.fullmatch(plain, value[end:])]
    kept = value[: min(ends) if longest else max(ends)] if ends else value
    assert remove_suffix(value, glob, longest=longest) == kept
    greedy = re.compile(plain.replace(".*?", ".*"))
    assert replace(value, glob, "X", every=False) == greedy.sub("X", value, count=1)
