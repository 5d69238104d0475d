"""What is given to load and import: tars, packed or not, and what is none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from agent.cli.commands.build import _pack
from agent.cli.tars.files import read_source
from agent.errors import HoldfastError


def make_tar(form: int) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        info = tarfile.TarInfo("file")
        info.size = 300_000
        archive.addfile(info, io.BytesIO(os.urandom(info.size)))
    return target.getvalue()


TAR = make_tar(tarfile.PAX_FORMAT)
OLD = TAR[:257] + bytes(8) + TAR[265:]
OLD = OLD[:148] + b"%06o\0 " % (sum(OLD[:512]) - sum(OLD[148:156]) + 256) + OLD[156:]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (TAR, TAR),
        (OLD, OLD),
        (bytes(10240), bytes(10240)),
        (bz2.compress(TAR), TAR),
        (lzma.compress(TAR), TAR),
        (gzip.compress(TAR, mtime=0), None),
        (zstandard.compress(TAR), None),
    ],
    ids=["tar", "v7", "no file", "bzip2", "xz", "gzip", "zstd"],
)
def test_what_is_sent(given: bytes, sent: bytes | None, tmp_path: Path) -> None:
    path, counted = tmp_path / "given", []
    path.write_bytes(given)
    assert b"".join(read_source(str(path), counted.append)) == (given if sent is None else sent)
    assert sum(counted) == len(given), "the bar is about the file as it is"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "is empty"),
        (b"root:x:0:0:root:/root:/bin/sh\n" * 100, "is no tar"),
        (TAR[:100], "is no tar"),
        (lzma.compress(TAR)[:-100], "is damaged"),
        (bz2.compress(TAR)[:-100], "is damaged"),
        (b"\xfd7zXZ\0" + bytes(600), "is damaged"),
    ],
    ids=["nothing", "text", "cut tar", "cut xz", "cut bzip2", "bad xz"],
)
def test_what_is_no_tar_is_told_before_it_is_sent(given: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(given)
    with pytest.raises(HoldfastError, match=said):
        list(read_source(str(path), lambda size: None))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lzma.compress(TAR))))
    assert b"".join(read_source(None, lambda size: None)) == TAR


def test_what_skopeo_calls_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("Directory Transport Version: 1.1\n")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(HoldfastError, match="what skopeo calls dir:") as caught:
        list(read_source(str(tmp_path), lambda size: None))
    assert caught.value.hint.startswith("skopeo copy dir:")


def test_an_address_is_no_file() -> None:
    with pytest.raises(HoldfastError) as caught:
        read_source("https://example.org/root.tar", lambda size: None)
    assert "curl" in caught.value.hint


def test_only_the_first_of_many_warnings_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    for number in range(9):
        os.mkfifo(tmp_path / f"pipe{number}")
    with ExitStack() as owned:
        options = {"contexts": ()}
        list(_pack(str(tmp_path), None, options, {}, owned).chunks)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "warning: and 4 more like these"


def test_a_dockerfile_of_another_name_is_named(tmp_path: Path) -> None:
    with ExitStack() as owned, pytest.raises(HoldfastError, match="/Dockerfile") as caught:
        _pack(str(tmp_path), None, {"contexts": ()}, {}, owned)
    assert caught.value.hint == "name one with -f"
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    with ExitStack() as owned, pytest.raises(HoldfastError) as caught:
        _pack(str(tmp_path), None, {"contexts": ()}, {}, owned)
    assert caught.value.hint == f"{tmp_path}/Containerfile is there: name it with -f"
