from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GOOD = "services:\n  web: {image: nginx}\n  db: {image: postgres}\n"
BAD = "services:\n  web:\n    imgae: nginx\n    restart: perhaps\n"


def validate(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", "validate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_all_is_well(tmp_path: Path) -> None:
    put(tmp_path / "shop.yaml", GOOD)
    put(tmp_path / "pulled/compose.yaml", "images: [busybox]")
    run = validate(str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "ok    pulled: no services\nok    shop: db, web\n"
    run = validate(str(tmp_path), "--json")
    assert run.returncode == 0
    assert json.loads(run.stdout) == {
        "valid": True,
        "apps": [
            {
                "name": "pulled",
                "path": str(tmp_path / "pulled/compose.yaml"),
                "valid": True,
                "services": [],
                "problems": [],
                "warnings": [],
            },
            {
                "name": "shop",
                "path": str(tmp_path / "shop.yaml"),
                "valid": True,
                "services": ["db", "web"],
                "problems": [],
                "warnings": [],
            },
        ],
    }


def test_every_problem_of_every_app_is_shown(tmp_path: Path) -> None:
    put(tmp_path / "bad/compose.yaml", BAD)
    put(tmp_path / "good.yaml", GOOD)
    put(tmp_path / "worse.yaml", "a: [")
    run = validate(str(tmp_path))
    file = tmp_path / "bad/compose.yaml"
    assert run.returncode == 1
    assert run.stdout.splitlines() == [
        f"error {file}:2:3: services.web: needs an image or a build",
        f"error {file}:3:5: services.web.imgae: unknown key; the nearest known one is 'image'",
        f"error {file}:4:14: services.web.restart: 'perhaps' is none of no, always, unless-stopped, on-failure[:N]",
        "ok    good: db, web",
        f"error {tmp_path}/worse.yaml:1:5: not YAML: while parsing a flow node, did not find expected node content",
    ]
    found = json.loads(validate(str(tmp_path), "--json").stdout)
    assert found["valid"] is False
    assert [app["valid"] for app in found["apps"]] == [False, True, False]
    problem = found["apps"][0]["problems"][1]
    assert (problem["file"], problem["line"], problem["column"]) == (str(file), 3, 5)


def test_a_name_that_two_apps_have(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", "name: shop\n" + GOOD)
    put(tmp_path / "b.yaml", "name: shop\n" + GOOD)
    run = validate(str(tmp_path))
    assert run.returncode == 1
    assert f"error {tmp_path}/b.yaml: the app name shop is taken by {tmp_path}/a.yaml: set another name:" in run.stdout


def test_two_files_of_one_app_are_both_named(tmp_path: Path) -> None:
    put(tmp_path / "web.yaml", GOOD)
    put(tmp_path / "web/compose.yaml", GOOD)
    run = validate(str(tmp_path))
    assert run.returncode == 1
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    assert all("web.yaml" in line and "web/compose.yaml" in line for line in lines)


def test_nothing_there(tmp_path: Path) -> None:
    run = validate(str(tmp_path))
    assert run.returncode == 0
    assert run.stdout.startswith("no apps: put a Compose file")
    assert json.loads(validate(str(tmp_path), "--json").stdout) == {"valid": True, "apps": []}


def test_no_directory(tmp_path: Path) -> None:
    put(tmp_path / "file", "")
    for place in ("gone", "file"):
        run = validate(str(tmp_path / place))
        assert run.returncode == 1
        assert place in run.stderr
        assert "Traceback" not in run.stderr


def test_variables_come_from_the_environment_and_stay_secret(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", "services: {web: {image: 'x:${TAG:?set TAG}', user: '${PASSWORD:-} x'}}")
    run = validate(str(tmp_path), environment={"PASSWORD": "hunter2", "TAG": "1"})
    assert run.returncode == 1
    assert "services.web.user: '${PASSWORD:-} x' is not USER or USER:GROUP" in run.stdout
    assert "hunter2" not in run.stdout + run.stderr


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    put(tmp_path / "a\x1b[2J.yaml", GOOD)
    put(tmp_path / "b.yaml", 'services: {web: {image: x, env_file: "x\\e[2J\\ny"}}')
    run = validate(str(tmp_path))
    assert run.returncode == 1
    assert "\x1b" not in run.stdout
    assert len(run.stdout.splitlines()) == 2


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that anybody may enter; other runs of pytest close the parents of ``tmp_path`` at any time."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="drops privileges")
def test_no_root_is_needed_and_what_cannot_be_read_is_said(open_place: Path) -> None:
    put(open_place / "state/a.yaml", GOOD)
    put(open_place / "state/b.yaml", GOOD)
    (open_place / "state/b.yaml").chmod(0)
    put(open_place / "state/closed/compose.yaml", GOOD)
    (open_place / "state/closed").chmod(0)
    code = (
        "import os, pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from agent.source.directory import scan_directory\n"
        "os.chdir(sys.argv[2]); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for key, app in scan_directory(pathlib.Path('state'), None).apps.items():\n"
        "    print(key, [str(problem) for problem in app.problems])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(open_place)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "a []",
        f"b ['{open_place}/state/b.yaml: Permission denied']",
        f"closed ['{open_place}/state/closed: cannot be read: Permission denied']",
    ]


def test_dockerfiles_that_builds_name_are_checked(tmp_path: Path) -> None:
    put(
        tmp_path / "shop/compose.yaml",
        "services:\n  web: {build: .}\n  same: {build: .}\n  lost: {build: {context: ok, target: nowhere}}\n",
    )
    put(tmp_path / "shop/Dockerfile", "FROM scratch\nCOPPY a b\nRUN\n\nUSER\n")
    put(tmp_path / "shop/ok/Dockerfile", "FROM scratch AS here\nCOPY --from=3 a b\n")
    run = validate(str(tmp_path))
    assert run.returncode == 1
    lines = run.stdout.splitlines()
    assert [line.removeprefix(f"error {tmp_path}/shop/").partition(": ")[0] for line in lines] == [
        *("Dockerfile:2:1", "Dockerfile:3:1", "Dockerfile:5:1", "ok/Dockerfile", "ok/Dockerfile:2:1")
    ]
    assert "COPPY" in lines[0]
    assert "nowhere" in lines[3]
    assert "COPY: --from=3 is no earlier stage" in lines[4]
    put(tmp_path / "shop/Dockerfile", "FROM scratch\nCOPY . /\n")
    put(tmp_path / "shop/.dockerignore", "good\n[bad\n")
    put(tmp_path / "shop/ok/Dockerfile", "FROM scratch AS nowhere\n")
    (problem,) = json.loads(validate(str(tmp_path), "--json").stdout)["apps"][0]["problems"]
    assert (problem["file"], problem["line"]) == (f"{tmp_path}/shop/.dockerignore", 2)


def test_a_dockerfile_inside_of_the_file_is_checked(tmp_path: Path) -> None:
    text = "services: {web: {build: {context: ., dockerfile_inline: 'FROM scratch\n\n    COPPY a b'}}}\n"
    put(tmp_path / "shop/compose.yaml", text)
    run = validate(str(tmp_path))
    assert run.returncode == 1
    assert run.stdout.startswith(
        f"error {tmp_path}/shop/compose.yaml: services.web.build.dockerfile_inline:2:1: unknown instruction COPPY"
    )


def test_variables_that_are_not_set_are_a_warning(tmp_path: Path) -> None:
    put(tmp_path / "shop.yaml", "services:\n  web:\n    image: nginx\n    hostname: a${NOT_SET_ANYWHERE}\n")
    run = validate(str(tmp_path))
    assert (run.returncode, run.stdout.splitlines()[0]) == (0, "ok    shop: web")
    assert run.stdout.splitlines()[1].startswith(
        f"warning {tmp_path}/shop.yaml:4:15: services.web.hostname: the variable NOT_SET_ANYWHERE is not set"
    )
    (app,) = json.loads(validate(str(tmp_path), "--json").stdout)["apps"]
    assert app["valid"]
    assert [(found["line"], found["column"]) for found in app["warnings"]] == [(4, 15)]
