from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from agent.builder.dockerfile.modes import BadMode, parse_mode

TEXTS = (
    "755", "0644", "4711", "7777", "0", "u=rwX,go=rX", "u=rw,go=", "+x", "-w", "a+rwx", "go-rwx", "u+s,g+s", "+t",
    "u=rws", "g=u", "o=g,u-w", "a=", "ug+rw,o-rwx", "u+x-w", "=r", "+X", "go=u-w", "g=s", "o+t",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_modes_are_those_of_chmod(tmp_path: Path, kind: str) -> None:
    """Debian's chmod(1) with no umask is the oracle."""
    target = tmp_path / "target"
    if kind == "directory":
        target.mkdir()
    else:
        target.touch()
    for before in (0o644, 0o750, 0o7531, 0o000):
        for text in TEXTS:
            target.chmod(before)
            if kind == "directory" and text.isdigit() and before & 0o6000:
                continue
            subprocess.run(["sh", "-c", 'umask 0; exec chmod "$@"', "sh", text, str(target)], check=True)
            whole = stat.S_IFMT(target.stat().st_mode) | before
            assert parse_mode(text).apply(whole) == stat.S_IMODE(target.stat().st_mode), (text, oct(before))


@pytest.mark.parametrize("text", ["", "x", "8", "77777", "u+y", "u=rw,", "u=rwx;", "+x" * 200, "u", "z=r", "u=ug"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(BadMode):
        parse_mode(text)
