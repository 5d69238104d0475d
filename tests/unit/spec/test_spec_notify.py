"""Top-level ``x-holdfast.notify`` of an app."""

from __future__ import annotations

import base64

from spec_loading import load, problems_of

from agent.plan.wants import DesiredApp

APP = "services:\n  web:\n    image: example/web\n"


def test_targets_are_read_and_are_no_part_of_a_revision() -> None:
    more = "x-holdfast:\n  notify:\n    - webhook: https://h.example/${HOOK}\n      format: slack\n      on: stalled\n"
    app = load(APP + more, environment={"HOOK": "abc"})
    (target,) = app.notify
    assert (target.url, target.format, target.on) == ("https://h.example/abc", "slack", ("stalled",))
    plain = load(APP)
    assert DesiredApp(app, "1").content == DesiredApp(plain, "2").content
    moved = load("# a comment\n" + APP)
    assert (plain.lines, moved.lines) == ({"web": 2}, {"web": 3})
    assert DesiredApp(moved, "3").content == DesiredApp(plain, "2").content
    assert target.secret == ""


def test_an_app_cannot_name_a_command() -> None:
    (problem,) = problems_of(APP + "x-holdfast:\n  notify:\n    - exec: [/bin/sh]\n")
    assert "it would run as root on the host" in problem


def test_a_secret_is_read_from_a_file_of_the_state_directory() -> None:
    more = "x-holdfast:\n  notify:\n    - webhook: https://h.example/\n      secret_file: "
    (target,) = load(f"{APP}{more}./key\n", {"key": "s3cret\n"}).notify
    assert base64.b64decode(target.secret) == b"s3cret"
    (problem,) = problems_of(f"{APP}{more}/etc/shadow\n")
    assert "outside of the state directory" in problem
