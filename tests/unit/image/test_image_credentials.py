"""config.json and credential helpers: found, kept, removed, and never shown."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Stalled, Waiting
from agent.image.registry import keychain
from agent.image.registry.credentials import Credentials, find_credentials, remove_credentials, save_credentials
from agent.image.registry.dockerconfig import HUB_KEY
from agent.image.registry.login import parse_registry
from agent.oci.reference import InvalidReference

HELPER = """#!/bin/sh
absent() {{ echo "credentials not found in native keychain"; exit 1; }}
# keeps one secret for each server in a directory
dir={directory}
case "$1" in
store) data=$(cat); name=$(printf %s "$data" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' | tr / _)
  printf %s "$data" > "$dir/$name" ;;
get) name=$(cat | tr / _); cat "$dir/$name" 2>/dev/null || absent ;;
erase) name=$(cat | tr / _); rm "$dir/$name" 2>/dev/null || absent ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``docker-credential-files`` in PATH; returns where it keeps secrets."""
    programs, kept = tmp_path / "bin", tmp_path / "kept"
    programs.mkdir()
    kept.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    write_program(programs, "files", HELPER.format(directory=kept))
    return kept


def write_program(directory: Path, name: str, text: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(text)
    path.chmod(0o755)


def test_a_config_is_made_for_its_owner_only(tmp_path: Path) -> None:
    config = tmp_path / "docker" / "config.json"
    assert save_credentials(config, "r.example", Credentials("joe", "s:ecret")) == str(config)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert [path.name for path in config.parent.iterdir()] == ["config.json"]
    assert find_credentials(config, "r.example") == Credentials("joe", "s:ecret")
    save_credentials(config, "docker.io", Credentials("hub", "p"))
    assert set(json.loads(config.read_text())["auths"]) == {"r.example", HUB_KEY}


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=40)


@settings(max_examples=25)
@given(TEXT.filter(lambda user: ":" not in user), TEXT, st.sampled_from(["docker.io", "r.example", "[::1]:5000"]))
def test_what_is_kept_is_found(
    tmp_path_factory: pytest.TempPathFactory, user: str, password: str, registry: str
) -> None:
    config = tmp_path_factory.getbasetemp() / "kept.json"
    for credentials in (Credentials(user, password), Credentials(user, identity_token=password)):
        save_credentials(config, registry, credentials)
        assert find_credentials(config, registry) == credentials


def test_what_else_is_in_the_config_is_kept(tmp_path: Path) -> None:
    real, config = tmp_path / "real.json", tmp_path / "config.json"
    before = {
        "HttpHeaders": {"a": "b"},
        "auths": {"https://R.example/v1/": {"auth": "eDp5"}, "o.example": {}},
        "x": [1],
    }
    real.write_text(json.dumps(before))
    real.chmod(0o644)
    config.symlink_to(real)
    save_credentials(config, "r.example", Credentials("joe", "new"))
    after = json.loads(real.read_text())
    assert config.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert after == {**before, "auths": {"o.example": {}, "r.example": {"auth": base64.b64encode(b"joe:new").decode()}}}
    assert remove_credentials(config, "r.example")
    assert not remove_credentials(config, "r.example")
    assert json.loads(real.read_text())["auths"] == {"o.example": {}}


def test_a_broken_config_is_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for text in ("{", '{"auths": []}', '{"auths": {}, "credHelpers": {"a": 1}}'):
        config.write_text(text)
        with pytest.raises(Stalled, match=r"config\.json"):
            save_credentials(config, "r.example", Credentials("joe", "secret"))
        assert config.read_text() == text


def test_logins_at_the_same_time_keep_each_other(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    names = [f"r{number}.example" for number in range(12)]
    threads = [
        threading.Thread(target=save_credentials, args=(config, name, Credentials("joe", name))) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(find_credentials(config, name) == Credentials("joe", name) for name in names)


def test_helpers_keep_secrets(tmp_path: Path, helper: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credsStore": "files", "auths": {"plain.example": {"auth": "eDp5"}}}))
    assert find_credentials(config, "r.example") is None
    assert save_credentials(config, "r.example", Credentials("joe", "secret")) == "docker-credential-files"
    assert "secret" not in config.read_text()
    assert json.loads(config.read_text())["auths"]["r.example"] == {}
    assert find_credentials(config, "r.example") == Credentials("joe", "secret")
    assert find_credentials(config, "plain.example") == Credentials("x", "y")
    save_credentials(config, "t.example", Credentials("joe", identity_token="refresh"))
    assert find_credentials(config, "t.example") == Credentials(identity_token="refresh")
    save_credentials(config, "docker.io", Credentials("hub", "p"))
    assert (helper / HUB_KEY.replace("/", "_")).exists()
    assert remove_credentials(config, "r.example")
    assert find_credentials(config, "r.example") is None
    assert not remove_credentials(config, "r.example")


def test_the_nearest_helper_is_asked_alone(tmp_path: Path, helper: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credHelpers": {"r.example": "files"}, "auths": {"r.example": {"auth": "eDp5"}}}))
    assert find_credentials(config, "r.example") is None, "not the entry beside it"
    save_credentials(config, "other.example", Credentials("joe", "elsewhere"), helper="files")
    assert find_credentials(config, "other.example") is None
    assert find_credentials(config, "other.example", "files") == Credentials("joe", "elsewhere")
    assert remove_credentials(config, "other.example", "files")


BROKEN = {
    "none": (None, "no such program"),
    "../sh": (None, "not the name of one"),
    "fails": ("#!/bin/sh\necho hunter2; echo hunter2 >&2; exit 3\n", "ended with status 3"),
    "garbage": ("#!/bin/sh\necho hunter2\n", "not valid JSON"),
    "notexec": ("\x7fELF", "cannot be run"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_helper_is_an_error_without_secrets(tmp_path: Path, helper: Path, name: str) -> None:
    text, said = BROKEN[name]
    if text is not None:
        write_program(tmp_path / "bin", name, text)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credHelpers": {"r.example": name}}))
    with pytest.raises(Stalled, match=said) as caught:
        find_credentials(config, "r.example")
    assert "hunter2" not in str(caught.value)


def test_a_helper_that_hangs_is_ended(tmp_path: Path, helper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "bin", "hangs", f"#!/bin/sh\nsleep 60 & echo $! > {tmp_path}/pid\nwait\n")
    for seconds in (0.2, 2.0, 20.0):  # until it comes to the point of hanging
        monkeypatch.setattr(keychain, "SECONDS", seconds)
        with pytest.raises(Waiting, match="did not answer"):
            find_credentials(tmp_path / "none", "r.example", "hangs")
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline


def test_registries_are_named_as_people_do() -> None:
    for text, name in {
        "docker.io": "docker.io",
        "https://index.docker.io/v1/": "docker.io",
        "R.example:5000": "r.example:5000",
        "https://r.example/": "r.example",
        "[::1]:5000": "[::1]:5000",
    }.items():
        assert parse_registry(text) == name
    for text in ("", "team", "r.example/team", "a b", "../x"):
        with pytest.raises(InvalidReference):
            parse_registry(text)
