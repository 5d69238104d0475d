"""A whole Debian system as an image of one layer, and of two: what Holdfast unpacks is what umoci unpacks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from guest import SUITE
from payload import ROOT

from tests.host.test_image_oracles import describe_tree, differences, pack_with_tar, unpacked_twice

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]
BASE = ROOT / "build/vm/minbase.tar"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a minimal Debian, made once (a minute) and kept as an archive."""
    root = tmp_path_factory.mktemp("minbase") / "root"
    if not BASE.exists():
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, str(root)], check=True, capture_output=True)
        BASE.parent.mkdir(parents=True, exist_ok=True)
        fresh = BASE.with_suffix(".new")
        fresh.write_bytes(pack_with_tar(root, "posix"))
        fresh.rename(BASE)
        shutil.rmtree(root)
    root.mkdir()
    unpack = ["tar", "-C", str(root), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", str(BASE)]
    subprocess.run(unpack, check=True)
    return root


def test_debian_equals_umoci(system: Path) -> None:
    whole = pack_with_tar(system, "posix")
    with unpacked_twice([whole], "gzip") as (ours, theirs):
        mine = describe_tree(ours)
        assert differences(mine, describe_tree(theirs)) == []
        assert differences(mine, describe_tree(system)) == []
    assert len(mine) > 5000
    assert sum(entry[5] is not None for entry in mine.values()) > 3, "device nodes"


def test_debian_changed_by_a_second_layer_equals_umoci(system: Path) -> None:
    below = pack_with_tar(system, "gnu")
    above = ["./etc", "./usr/bin", "./var/lib/dpkg/info"]
    changes = subprocess.run(["tar", "-C", str(system), "-c", *above], check=True, capture_output=True).stdout
    with unpacked_twice([below, changes]) as (ours, theirs):
        assert differences(describe_tree(ours), describe_tree(theirs)) == []
