"""The process of a container, as Docker would merge it."""

from __future__ import annotations

import pytest

from agent.engine.model import ContainerConfig, ProcessConfig
from agent.engine.process import compute_process, parse_environment, parse_signal
from agent.errors import HoldfastError
from agent.oci.imageconfig import ImageConfig, decode_image_config

IMAGE = decode_image_config(
    b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Entrypoint":["/e"],'
    b'"Cmd":["c"],"Env":["A=1","SECRET","*","B="],"WorkingDir":"/w","User":"u","StopSignal":"SIGQUIT"}}'
)


def config(**process: object) -> ContainerConfig:
    return ContainerConfig(name="n", image="sha256:0", process=ProcessConfig(**process))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        ({}, ("/e", "c")),
        ({"command": ("x",)}, ("/e", "x")),
        ({"command": ()}, ("/e",)),
        ({"entrypoint": ("/o",)}, ("/o",)),
        ({"entrypoint": (), "command": ("x", "y")}, ("x", "y")),
    ],
)
def test_arguments(process: dict[str, object], expected: tuple[str, ...]) -> None:
    assert compute_process(config(**process), IMAGE).args == expected


def test_image_defaults_and_overrides() -> None:
    process = compute_process(config(environment={"A": "2"}), IMAGE)
    assert (process.cwd, process.user, process.stop_signal) == ("/w", "u", 3)
    assert process.env["A"] == "2"
    assert "SECRET" not in process.env
    assert process.env["HOSTNAME"] == "n"


def test_nothing_to_run_is_said() -> None:
    empty: ImageConfig = decode_image_config(
        b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{}}'
    )
    with pytest.raises(HoldfastError, match="no command"):
        compute_process(config(), empty)


def test_malformed_environment_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "canary")
    assert parse_environment(["SECRET", "*", "A=", "=x", "B=1=2", "N\0=1"]) == {"A": "", "B": "1=2"}


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMIN", 34), ("64", 64)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNOPE", "RTMIN-1", "RTMIN+99", "RTMAX+1", "٣", "-1"])
def test_wrong_signals(text: str) -> None:
    with pytest.raises(HoldfastError, match="not a signal"):
        parse_signal(text)


@pytest.mark.parametrize("path", ["relative", "/proc/self/fd/7", "/proc//1", "//proc/x", "/a\0b"])
def test_working_directory_cannot_lead_out(path: str) -> None:
    with pytest.raises(HoldfastError, match="working directory"):
        compute_process(config(working_dir=path), IMAGE)
