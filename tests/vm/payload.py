"""What the guest is given: the project as wheels, what it depends on, its units, and the scenario.

The guest has no network, and pip under emulation takes minutes for what the project depends on: that is installed here
and copied there. The project itself is installed and upgraded by pip in the guest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pip

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("agent", "deploy", "pyproject.toml", "README.md", "LICENSE")
VERSION = re.compile(r'^(version|__version__) = "(.+)"$', re.MULTILINE)
RUN = """\
#!/bin/sh
exec python3 -B -m scenario "$1"
"""


def make_payload(scratch: Path) -> Path:
    """A tar with ``run.sh``, ``scenario``, ``deploy``, ``site``, ``wheel``, and a later version in ``upgrade``."""
    content, source = scratch / "content", scratch / "source"
    content.mkdir()
    _copy_source(source)
    _build_wheel(source, content / "wheel")
    _install_dependencies(content / "wheel", content / "site")
    _raise_version(source)
    _build_wheel(source, content / "upgrade")
    shutil.copytree(ROOT / "deploy", content / "deploy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parent / "scenario", content / "scenario", ignore=ignored)
    (content / "run.sh").write_text(RUN)
    payload = scratch / "payload.tar"
    with tarfile.open(payload, "w") as archive:
        archive.add(content, ".")
    return payload


def _copy_source(target: Path) -> None:
    """A tree of its own: setuptools leaves a build directory behind, and would take old modules from there."""
    target.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)


def _install_dependencies(wheel: Path, site: Path) -> None:
    (project,) = wheel.glob("holdfast-*.whl")
    _run_pip("install", "--target", str(site), str(project))
    for path in (site / "agent", site / "bin", *site.glob("holdfast-*")):
        shutil.rmtree(path)
    shutil.copytree(Path(pip.__file__).parent, site / "pip", dirs_exist_ok=True)


def _raise_version(source: Path) -> None:
    for path in (source / "pyproject.toml", source / "agent/__init__.py"):
        text, count = VERSION.subn(r'\1 = "\2.post1"', path.read_text(), count=1)
        assert count == 1, f"no version in {path}"
        path.write_text(text)
    shutil.rmtree(source / "build", ignore_errors=True)


def _build_wheel(source: Path, target: Path) -> None:
    _run_pip("wheel", "--no-deps", "-w", str(target), str(source))


def _run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
