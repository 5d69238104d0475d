"""build --output: where files go, and that nothing leads out of there."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli.building.output import Output, read_output
from agent.cli.tars.tree import write_tree
from agent.errors import HoldfastError

Entry = tuple[str, bytes, dict[str, Any]]
DIRECTORY, LINK, HARD, PIPE = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE


def tar(*entries: Entry) -> Iterator[bytes]:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, fields in entries:
            info = tarfile.TarInfo(name)
            for key, value in {"mode": 0o644, **fields}.items():
                setattr(info, key, value)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = target.getvalue()
    yield from (data[at : at + 1000] for at in range(0, len(data), 1000))


def test_a_tree_is_written_and_written_again(tmp_path: Path) -> None:
    place = tmp_path / "new" / "out"
    for content in (b"one", b"two"):
        left_out = write_tree(
            str(place),
            tar(
                ("./", b"", {"type": DIRECTORY, "mode": 0o700}),
                ("./sub", b"", {"type": DIRECTORY, "mode": 0o555}),
                ("./sub/file", content, {"mode": 0o755, "mtime": 7}),
                ("./hard", b"", {"type": HARD, "linkname": "./sub/file"}),
                ("./link", b"", {"type": LINK, "linkname": "/etc/passwd"}),
                ("./pipe", b"", {"type": PIPE}),
            ),
        )
        assert left_out == 1
        assert (place / "hard").read_bytes() == content
        assert (place / "sub" / "file").stat().st_mode & 0o7777 == 0o755
        assert (place / "sub" / "file").stat().st_mtime == 7
        assert (place / "sub").stat().st_mode & 0o7777 == 0o555
        assert str((place / "link").readlink()) == "/etc/passwd"
        assert sorted(path.name for path in place.iterdir()) == ["hard", "link", "sub"]


@pytest.mark.parametrize(
    "entries",
    [
        [("../outside", b"x", {})],
        [("a/../../outside", b"x", {})],
        [("link", b"", {"type": LINK, "linkname": ".."}), ("link/outside", b"x", {})],
        [("there/outside", b"x", {})],
        [("hard", b"", {"type": HARD, "linkname": "there/secret"})],
        [("hard", b"", {"type": HARD, "linkname": "../secret"})],
        [("full", b"x", {})],
    ],
    ids=["above", "up and down", "link", "link that was there", "hard link", "hard link above", "directory"],
)
def test_nothing_leads_out(entries: list[Entry], tmp_path: Path) -> None:
    place = tmp_path / "out"
    (place / "full").mkdir(parents=True)
    (place / "there").symlink_to(tmp_path)
    (tmp_path / "secret").write_text("s")
    with pytest.raises(HoldfastError):
        write_tree(str(place), tar(*entries))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret"]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_link_that_was_there_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("as before")
    (tmp_path / "out" / "file").symlink_to(tmp_path / "victim")
    write_tree(str(tmp_path / "out"), tar(("file", b"new", {})))
    assert (tmp_path / "victim").read_text() == "as before"
    assert (tmp_path / "out" / "file").read_text() == "new"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("out", Output("out", tar=False)),
        ("-", Output("-", tar=True)),
        ("type=local,dest=a/b", Output("a/b", tar=False)),
        ("type=tar,dest=x.tar", Output("x.tar", tar=True)),
        ("type=tar", Output("-", tar=True)),
    ],
)
def test_places(text: str, wanted: Output) -> None:
    assert read_output(text) == wanted


@pytest.mark.parametrize("text", ["type=local", "type=foo,dest=x", "type=tar,dest=x,a=b", "type=registry", "dest=x"])
def test_no_places(text: str) -> None:
    with pytest.raises((HoldfastError, click.UsageError)):
        read_output(text)
