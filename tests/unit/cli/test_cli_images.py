"""The list of images: which are shown, and what of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.commands import imagelist
from agent.cli.main import run as run_command

NAMES = {
    "a": ["alpine:3", "shop/web:1"],
    "b": ["r.example:5000/shop/web:2"],
    "c": [],
    "d": [f"multi:1@sha256:{'e' * 64}"],
}


@pytest.fixture(autouse=True)
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __init__(self, host: str) -> None:
            pass

        def get(self, path: str) -> list[dict[str, Any]]:
            facts = {"size": 1, "created": "", "pulled": 0.0}
            return [
                {"id": f"sha256:{letter * 64}", "digest": f"sha256:{'f' * 64}", "names": names, **facts}
                for letter, names in NAMES.items()
            ]

    monkeypatch.setattr(imagelist, "Client", Client)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("", "alpine:3 shop/web:1 r.example:5000/shop/web:2 <none> multi:1@"),
        ("-a", "alpine:3 shop/web:1 r.example:5000/shop/web:2 <none> multi:1@"),
        ("alpine", "alpine:3"),
        ("alpine:3", "alpine:3"),
        ("docker.io/library/alpine", "alpine:3"),
        ("*web", "shop/web:1 r.example:5000/shop/web:2"),
        ("r.example:5000/shop/web multi:1", "r.example:5000/shop/web:2 multi:1@"),
        ("alp", ""),
        ("-f dangling=true", "<none>"),
        ("--filter dangling=false --filter reference=shop/*", "shop/web:1"),
    ],
)
def test_which_are_shown(line: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["images", *line.split()]) == 0
    rows = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]
    assert [row.partition("@")[0] for row in rows] == [name.partition("@")[0] for name in shown.split()]


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["images", "--digests", "--no-trunc", "shop/web"]) == 0
    shown = capsys.readouterr().out
    assert f"sha256:{'a' * 64}" in shown
    assert f"sha256:{'f' * 64}" in shown
    assert run_command(["images", "-q", "alpine"]) == 0
    assert capsys.readouterr().out == f"sha256:{'a' * 64}\n"
    assert run_command(["images", "--json", "alpine"]) == 0
    assert [image["names"] for image in json.loads(capsys.readouterr().out)] == [["alpine:3"]]
    assert run_command(["images", "--filter", "label=x"]) == 1
    assert "such as dangling=true" in capsys.readouterr().err
