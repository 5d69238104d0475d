from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from agent.telemetry.logging import configure_logging, get_logger
from agent.telemetry.redaction import redact, redact_text

SECRETS = ("hunter2", "s3cr3t-token", "dXNlcjpwYXNz", "env-value-1", "arg-value-2", "Zm9vYmFyYmF6")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def plant() -> None:
    log = get_logger("test")
    log.info("pull https://joe:hunter2@registry/v2", password="hunter2", token="s3cr3t-token")
    log.info("auth", config={"auths": {"r": {"auth": "dXNlcjpwYXNz"}}}, headers=["Authorization: Basic dXNlcjpwYXNz"])
    log.info("run", env={"KEY": "env-value-1"}, environment=["KEY=env-value-1"], build_args={"A": "arg-value-2"})
    log.info("git clone https://s3cr3t-token@host/repo and api_key=hunter2 'password': 'hunter2'")
    log.info("Bearer Zm9vYmFyYmF6", nested=[{"client_secret": "hunter2"}])
    try:
        raise ValueError("cannot log in with password=hunter2")
    except ValueError:
        log.exception("failed")
        logging.getLogger("some.library").exception("token=s3cr3t-token")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["json", "terminal"])
def test_no_planted_secret_is_logged(stream: io.StringIO) -> None:
    configure_logging(stream, "debug", {})
    plant()
    text = stream.getvalue()
    assert "cannot log in" in text
    assert "some.library" in text
    assert [secret for secret in SECRETS if secret in text] == []


def test_json_off_a_terminal() -> None:
    stream = io.StringIO()
    configure_logging(stream, "info", {})
    get_logger("x").info("up", app="web", seconds=0.5)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["app"], line["seconds"], line["level"]) == ("up", "web", 0.5, "info")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal_only_if_wanted(environment: dict[str, str], coloured: bool) -> None:
    stream = Terminal()
    configure_logging(stream, "info", environment)
    get_logger().warning("watch out", app="web")
    assert ("\x1b[" in stream.getvalue()) is coloured
    assert "watch out" in stream.getvalue()


def test_level_is_kept() -> None:
    stream = io.StringIO()
    configure_logging(stream, "warning", {})
    get_logger().info("quiet")
    logging.getLogger("library").info("quiet too")
    get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("author=me authored path=/etc/passwd-like", "author=me authored path=/etc/passwd-like"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("a basic thing", "a basic thing"),
    ],
)
def test_innocent_text_is_left_alone(text: str, kept: str) -> None:
    assert redact_text(text) == kept


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("DB_PASS", True),
        ("mysql_pw", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_ACCESS_KEY_ID", True),
        ("X-Registry-Auth", True),
        ("DATABASE_DSN", True),
        ("key", False),
        ("keyboard", False),
        ("author", False),
        ("compass", False),
        ("passes", False),
        ("bypass_count", False),
        ("COLOUR", False),
    ],
)
def test_names_of_secrets(name: str, hidden: bool) -> None:
    assert (redact({name: "value"})[name] == "***") is hidden


@pytest.mark.parametrize(
    "text",
    [
        "DB_PASS=hunter2",
        "aws_access_key: 'hunter2'",
        '"client_secret": "hunter2"',
        "?token=hunter2&x=1",
        "apikey=hunter2",
    ],
)
def test_pairs_in_texts_are_hidden(text: str) -> None:
    assert "hunter2" not in redact_text(f"got {text} from there")


def test_redaction_keeps_structure() -> None:
    assert redact({"name": "web", "ports": (80, 443), "auth": None, "tokens": ""}) == {
        "name": "web",
        "ports": [80, 443],
        "auth": None,
        "tokens": "",
    }


def test_endless_nesting_is_cut() -> None:
    value: list[object] = []
    value.append(value)
    assert "***" in json.dumps(redact(value))


def test_logging_does_not_load_rich() -> None:
    code = "import sys, agent.telemetry.logging; print('rich.console' in sys.modules); import rich.console"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "False", run.stderr
    assert run.returncode == 0
