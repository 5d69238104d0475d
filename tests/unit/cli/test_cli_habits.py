"""What people who know docker type: it works, or what to type instead is said."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli.main import COMMANDS
from agent.cli.main import run as run_command

SAID = [
    ("rmi web:1", "holdfast image rm IMAGE"),
    ("docker images", "leave docker out"),
    ("run -it alpine", "write it as a service"),
    ("compose up -d", "put the Compose file into the state directory"),
    ("system prune -a", "holdfast image prune --all"),
    ("statsu", "did you mean holdfast status?"),
    ("image lss", "did you mean holdfast image ls?"),
    ("images --format {{.ID}}", "--json, and jq"),
    ("image inspect -f {{.Id}} web:1", "No such option"),
    ("build --squash -t x .", "FROM scratch"),
    ("build --push .", "say with -t where to"),
    ("build -o - --json .", "cannot be the tar and the progress"),
    ("build -o type=oci,dest=x .", "holdfast save --format oci"),
    ("image build --rm .", "leave it out"),
    ("pull a b", "one image at a time"),
    ("load web.tar", "holdfast load -i FILE"),
    ("login -u me -p secret", "--password-stdin"),
    ("history web:1", "holdfast image history web:1"),
    ("history --no-trunc web:1", "holdfast image history --no-trunc IMAGE"),
]


@pytest.mark.parametrize(("line", "said"), SAID)
def test_what_to_type_instead_is_said(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(line.split()) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert "Did you mean" not in shown.err


def test_nothing_is_guessed_where_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["frobnicate"]) == 1
    assert capsys.readouterr().err.endswith("Error: there is no command 'frobnicate'\n")


def test_what_is_recommended_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Each hint that begins with a command of ours names one that there is."""
    from agent.cli import habits

    tables: list[dict[str, Any]] = [habits._WORDS, habits._OPTIONS, habits._MORE]
    hints = [text.split() for table in tables for text in table.values() if text.startswith("holdfast ")]
    assert len(hints) > 20
    for words in hints:
        assert words[1].rstrip(",") in COMMANDS
    assert not set(habits._WORDS) & set(COMMANDS)


@pytest.mark.parametrize("word", ["build", "push", "save", "load", "import", "pull"])
def test_image_has_what_docker_image_has(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["image", word, "--help"]) == 0
    assert f"image {word}" in capsys.readouterr().out
