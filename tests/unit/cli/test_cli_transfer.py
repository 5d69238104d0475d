"""How pulls and pushes are shown, and how passwords are read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent

from agent.cli.main import run as run_command
from agent.cli.transfer import follow, render_left


class Terminal:
    """Runs commands in this process; what they print is in ``out`` and ``err``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def holdfast(self, *arguments: str, given: str = "") -> int:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        code = run_command(arguments)
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def test_push_says_what_was_sent(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeAgent() as agent:
        monkeypatch.setenv("HOLDFAST_HOST", agent.host)
        assert terminal.holdfast("push", "shop/web:1", "r.example/web:2") == 0
        assert "r.example/web:2: pushing, 1/2 layers, 50 B of 100 B" in terminal.out
        assert terminal.out.endswith("(1 uploaded, 1 present, 50 B sent)\n")
        assert terminal.holdfast("push", "-q", "shop/web:1") == 0
        assert terminal.out.startswith("sha256:")
        assert terminal.holdfast("push", "--json", "shop/web:1") == 0
    lines = [json.loads(line) for line in terminal.out.splitlines()]
    assert [set(line) for line in lines] == [{"progress"}, {"pushed"}]


def report(**values: Any) -> dict[str, Any]:
    facts = {"reference": "app:1", "phase": "pulling", "layers_total": 0, "layers_done": 0, "bytes_total": 0}
    return {"progress": {**facts, "bytes_done": 0, "rate": 0.0, "bytes_fetched": 0, "eta": None, **values}}


@pytest.mark.parametrize(
    ("fetched", "names", "said"),
    [
        (9, ["app:1"], "(5 B)"),
        (0, ["app:1"], "(5 B, nothing had to be fetched)"),
        (9, ["app:1@sha256:abc"], "(5 B, called app:1@sha256:abc)"),
    ],
)
def test_pull_says_what_came_and_what_it_is_called(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, fetched: int, names: list[str], said: str
) -> None:
    def stream(*_: Any) -> Iterator[dict[str, Any]]:
        yield report(phase="resolving")
        yield report(bytes_fetched=fetched)
        yield {"image": {"id": "sha256:x", "size": 5, "names": names}}

    monkeypatch.setattr("agent.cli.client.Client.stream", stream)
    assert terminal.holdfast("pull", "app:1") == 0
    assert terminal.out.endswith(f"app:1: sha256:x {said}\n")


def test_no_line_is_said_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("agent.cli.transfer._LINE_SECONDS", 0.0)
    follow(iter([report(), report(), report(phase="done")]), "image", "app:1", "show")
    assert capsys.readouterr().out == "app:1: pulling\napp:1: done\n"


def layer(state: str, done: int, eta: float | None) -> dict[str, Any]:
    rate = 10.0 if state == "running" else 0.0
    return {
        "digest": f"sha256:{state[0] * 64}",
        "state": state,
        "bytes_total": 100,
        "bytes_done": done,
        "rate": rate,
        "eta": eta,
    }


def reports() -> Iterator[dict[str, Any]]:
    for first, second, eta in ((0, 0, None), (50, 20, 13.0), (100, 60, 4.0), (100, 100, 0.0)):
        layers = [layer("done" if done == 100 else "running", done, eta) for done in (first, second)]
        report = {"reference": "app:1", "phase": "pulling", "layers_total": 2, "layers_done": 0}
        report |= {"bytes_total": 200, "bytes_done": first + second, "rate": 10.0, "eta": eta, "layers": layers}
        yield {"progress": report}
    yield {"image": {"id": "x"}}


def test_lines_say_rate_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(reports(), "image", "app:1", "show") == {"id": "x"}
    assert capsys.readouterr().out == "app:1: pulling, 0/2 layers, 0 B of 200 B, 10 B/s\n"
    assert follow(reports(), "image", "app:1", "quiet") == {"id": "x"}
    assert capsys.readouterr().out == ""


def test_each_layer_has_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name, value in {"COLUMNS": "120", "TERM": "xterm", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rich.progress.Progress.update", _update_at_once())
    assert follow(reports(), "image", "app\x1b[2J:1", "show") == {"id": "x"}
    shown = capsys.readouterr().out
    for part in ("app\\x1b[2J:1", "rrrrrrrrrrrr", "70 B of 200 B", "13s left", "60 B of 100 B"):
        assert part in shown


def _update_at_once() -> Any:
    from rich.progress import Progress

    update = Progress.update

    def refreshing(self: Progress, *arguments: Any, **options: Any) -> None:
        update(self, *arguments, **options, refresh=True)

    return refreshing


def test_times_that_are_left() -> None:
    cases = {None: "", 0.0: "", 0.2: "1s left", 59.0: "59s left", 65.0: "1m05s left", 7300.0: "2h01m left"}
    assert {seconds: render_left(seconds) for seconds in cases} == cases


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["-u", "joe", "--password-stdin"], "", "holds no password"),
        (["-u", "joe", "--password-stdin"], "a\nb\n", "holds no password"),
        (["-u", "joe"], "", "no terminal to ask on"),
        (["--password-stdin"], "x", "whose password"),
        (["-u", "a:b", "--password-stdin"], "x", "no colon"),
    ],
)
def test_logins_that_cannot_be(terminal: Terminal, tmp_path: Path, arguments: list[str], given: str, said: str) -> None:
    config = ["--config", str(tmp_path / "config.json")]
    assert terminal.holdfast("login", "127.0.0.1:1", *arguments, *config, given=given) == 1
    assert said in terminal.err
    assert not (tmp_path / "config.json").exists()


def test_login_and_logout_name_what_they_do_not_know(terminal: Terminal, tmp_path: Path) -> None:
    config = ["--config", str(tmp_path / "config.json")]
    assert terminal.holdfast("login", "127.0.0.1:1", "-u", "joe", "--password-stdin", *config, given="hunter2\n") == 1
    assert "127.0.0.1:1 cannot be reached" in terminal.err
    assert "hunter2" not in terminal.err
    assert terminal.holdfast("logout", "team/x", *config) == 1
    assert "is no registry" in terminal.err
    assert terminal.holdfast("logout", "127.0.0.1:1", *config) == 0
    assert terminal.out == "there were none of 127.0.0.1:1\n"
    assert terminal.holdfast("logout", "--registries", str(tmp_path / "x"), *config) == 1
    assert "there is no file" in terminal.err
