from __future__ import annotations

import pytest

from agent.builder.dockerfile.checkrules import (
    CHECK_ARG,
    RULES,
    CheckOptions,
    choose_options,
    find_unknown_rules,
    parse_check_options,
)
from agent.builder.dockerfile.checks import find_findings, find_ignored
from agent.builder.dockerfile.parse import parse_dockerfile
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.order import BuildOrder
from agent.builder.patterns.patterns import IgnoreRules
from agent.oci.platform import Platform

HOST = Platform("linux", "amd64")


def find(text: str) -> list[str]:
    dockerfile = parse_dockerfile(text, "Dockerfile")
    plan = compute_plan(dockerfile, BuildOrder("/c", "x", args={"V": "1"}), HOST)
    return [f"{one.rule}:{one.line}" for one in find_findings(dockerfile, plan)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("FROM a AS Build", ["StageNameCasing:1"]),
        ("FROM a as build", ["FromAsCasing:1"]),
        ("from a as build", []),
        ("from a AS build", ["FromAsCasing:1"]),
        ("FROM a\nRUN x \\\n\n  y", ["NoEmptyContinuation:3"]),
        ("FROM a\nRUN x \\\n # why\n  y", []),
        ("FROM a\nrun x\nCOPY a b", ["ConsistentInstructionCasing:2"]),
        ("from a\nrun x\nCOPY a b", ["ConsistentInstructionCasing:3"]),
        ("FROM a\nRun x", ["ConsistentInstructionCasing:2"]),
        ("FROM a\nCMD run me", ["JSONArgsRecommended:2"]),
        ("FROM a\nENTRYPOINT run me", ["JSONArgsRecommended:2"]),
        ('FROM a\nENTRYPOINT ["run", "me"]\nCMD []', []),
        ('FROM a\nSHELL ["/bin/ash", "-c"]\nCMD run me', []),
        ('FROM a AS b\nSHELL ["/bin/ash", "-c"]\nFROM b\nCMD run me', []),
        ("FROM a\nMAINTAINER me", ["MaintainerDeprecated:2"]),
        ("FROM a$V", ["UndefinedArgInFrom:1"]),
        ("ARG V\nFROM a:$V", ["InvalidDefaultArgInFrom:2"]),
        ("ARG V=1\nFROM a:$V", []),
        ("ARG V\nFROM a:${V:-1}", []),
        ("FROM a AS amd64\nFROM $TARGETARCH", []),
        ("FROM a\nWORKDIR b", ["WorkdirRelativePath:2"]),
        ("FROM a\nWORKDIR /b\nWORKDIR c", []),
        ("FROM a AS b\nWORKDIR /b\nFROM b\nWORKDIR c", []),
        ('FROM a\nCMD ["a"]\nCMD ["b"]', ["MultipleInstructionsDisallowed:2"]),
        ("FROM a\nHEALTHCHECK NONE\nHEALTHCHECK CMD a", ["MultipleInstructionsDisallowed:2"]),
        ('FROM a\nCMD ["a"]\nFROM b\nCMD ["b"]', []),
        ("FROM a\nENV A b\nLABEL c d", ["LegacyKeyValueFormat:2", "LegacyKeyValueFormat:3"]),
        ("FROM a\nENV A=b\nLABEL \"c\"=d", []),
        ("FROM --platform=$TARGETPLATFORM a", ["RedundantTargetPlatform:1"]),
        ("FROM --platform=$BUILDPLATFORM a", []),
        ("FROM --platform=linux/amd64 a", ["FromPlatformFlagConstDisallowed:1"]),
        ("FROM --platform=linux/amd64 a AS for_amd64", []),
        ("FROM a\nARG AWS_SECRET_ACCESS_KEY\nENV API_TOKEN=x",
         ["SecretsUsedInArgOrEnv:2", "SecretsUsedInArgOrEnv:3"]),
        ("ARG PASSWORD\nFROM a", ["SecretsUsedInArgOrEnv:1"]),
        ("FROM a\nARG PUBLIC_KEY\nENV TOKENIZER=x MONKEY=y", []),
        ("FROM a\nEXPOSE 80/TCP 81/udp", ["ExposeProtoCasing:2"]),
        ("FROM a AS context\nFROM a AS Scratch", ["ReservedStageName:1", "ReservedStageName:2", "StageNameCasing:2"]),
        ("FROM a\nEXPOSE 127.0.0.1:80:80 81 $P:82", ["ExposeInvalidFormat:2"]),
        ("# why\nFROM a AS b\n# why not\nARG V", ["InvalidDefinitionDescription:2", "InvalidDefinitionDescription:4"]),
        ("# b builds\nFROM a AS b\n# W is the width\nARG V=1 W=2", []),
        ("# escape=`\n# why\n\nFROM a AS b\n# why\n#\nARG V\n# why\nRUN x", []),
        ("# check=skip=all\nARG V\n# why\nFROM a$V", []),
    ],
)  # fmt: skip
def test_what_the_text_shows(text: str, wanted: list[str]) -> None:
    assert find(text) == wanted


def test_ignored_files() -> None:
    text = "FROM a\nCOPY tmp/x kept tmp/*.c /d/\nADD https://h/tmp/x /d/\nCOPY --from=b tmp/x /d/\nCOPY some/a /d/\n"
    dockerfile = parse_dockerfile(text, "Dockerfile")
    (stage,) = compute_plan(dockerfile, BuildOrder("/c", "x"), HOST).stages
    rules = IgnoreRules(("tmp", "some", "!some/a"))
    assert [one.message for one in find_ignored(stage, rules)] == ["tmp/x is left out by .dockerignore"]


def test_options() -> None:
    found = parse_check_options("skip=JSONArgsRecommended, StageNameCasing;error=true")
    assert found == CheckOptions(frozenset({"JSONArgsRecommended", "StageNameCasing"}), error=True)
    assert found.wants("UndefinedVar") and not found.wants("StageNameCasing")
    assert not any(parse_check_options("skip=all").wants(rule) for rule in RULES)
    for text, wanted in (("skip=", False), ("experimental=all", True), ("experimental=all;skip=all", False)):
        assert parse_check_options(text).wants("InvalidDefinitionDescription") is wanted
    assert find_unknown_rules(parse_check_options("experimental=Nope,UndefinedVar;skip=all")) == ("Nope",)
    assert choose_options(found, {}) == found
    assert choose_options(found, {CHECK_ARG: "skip=all"}) == parse_check_options("skip=all")
