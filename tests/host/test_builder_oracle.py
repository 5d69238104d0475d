"""Every Dockerfile of ``buildcases`` built twice, by Holdfast and by buildah: the same configuration, the same tree."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from isal import igzip

from tests.host.buildcases import BASE, CASES, Case, fill_context
from tests.host.builderlab import FROM_CONTEXT, Lab, open_builder_lab

pytestmark = pytest.mark.host
COMPARED = (
    *("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes", "StopSignal"),
    *("Healthcheck", "Shell", "OnBuild"),
)


class Buildah:
    """Debian's buildah with a storage of its own; builds run beside the tests that wait for them."""

    def __init__(self, root: Path, context: Path) -> None:
        self._root = root
        self._context = context
        self._storage = [
            *("buildah", "--root", str(root / "storage"), "--runroot", str(root / "run"), "--storage-driver", "overlay")
        ]
        self._pool = ThreadPoolExecutor(2)
        self._results: dict[str, Future[Path]] = {}

    def start(self, base: str) -> None:
        subprocess.run([*self._storage, "pull", "-q", base], check=True, capture_output=True)
        image = subprocess.run([*self._storage, "images", "-q"], check=True, capture_output=True, text=True)
        subprocess.run([*self._storage, "tag", image.stdout.split()[0], BASE], check=True, capture_output=True)
        for case in CASES:
            self._results[case.name] = self._pool.submit(self._build, case)

    def _build(self, case: Case) -> Path:
        output, file = self._root / case.name, self._root / f"{case.name}.Dockerfile"
        file.write_text(case.text(ours=False))
        args = [option for name, value in case.args.items() for option in ("--build-arg", f"{name}={value}")]
        args += ["--target", case.target] if case.target else []
        command = [*self._storage, "bud", "--format", "docker", "--isolation", "chroot", "--layers=false", "-q"]
        command += ["--pull=never", "-t", f"dir:{output}", "-f", str(file), *args, str(self._context)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return output

    def result(self, case: Case) -> tuple[dict[str, Any], list[bytes]]:
        """The image's config and its layers."""
        output = self._results[case.name].result()
        manifest = json.loads((output / "manifest.json").read_bytes())
        digests = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
        config = json.loads((output / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes())
        return config, [(output / digest).read_bytes() for digest in digests]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        subprocess.run(["umount", "-R", str(self._root / "storage" / "overlay")], capture_output=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("lab")) as opened:
        opened.add_rootfs()
        (opened.context / "rootfs" / "etc" / "sub").mkdir()
        (opened.context / "rootfs" / "etc" / "sub" / "f").write_text("f")
        (opened.context / "rootfs" / "tmp").chmod(0o1777)
        for name in ("dev", "proc", "sys", "run"):
            (opened.context / "rootfs" / name).mkdir()
        for name in ("hosts", "hostname", "resolv.conf"):
            (opened.context / "rootfs" / "etc" / name).touch()
        for applet in ("chown", "chmod", "false", "true"):
            (opened.context / "rootfs" / "bin" / applet).symlink_to("busybox")
        opened.build(FROM_CONTEXT + 'CMD ["sh"]\n', tag=BASE)
        shutil.rmtree(opened.context)
        opened.context.mkdir()
        fill_context(opened.context)
        yield opened


@pytest.fixture(scope="module")
def buildah(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    root = tmp_path_factory.mktemp("buildah")
    shutil.copytree(lab.context, root / "context", symlinks=True)
    started = Buildah(root, root / "context")
    started.start(f"oci:{lab.images.content.root}:{BASE}")
    try:
        yield started
    finally:
        started.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_builds_agree(case: Case, lab: Lab, buildah: Buildah) -> None:
    dockerfile = lab.root / "Dockerfile"
    dockerfile.write_text(case.text(ours=True))
    shutil.copy(dockerfile, lab.context / "Dockerfile")
    entry = lab.build(case.text(ours=True), tag=f"case:{case.name}", args=case.args, target=case.target or None)
    (lab.context / "Dockerfile").unlink()
    ours = json.loads(lab.images.content.read(entry.id))
    blobs = [lab.images.content.path(layer.descriptor.digest) for layer in lab.images.layers(entry.id)]
    theirs, layers = buildah.result(case)
    assert normalise(ours) == normalise(theirs)
    found = merge([igzip.decompress(blob.read_bytes()) for blob in blobs], times=case.times)
    wanted = merge(layers, times=case.times)
    assert found == wanted


def normalise(document: Mapping[str, Any]) -> dict[str, Any]:
    """What an image says of how it runs; how tools spell "nothing" does not count, nor who built it."""
    run = document.get("config") or {}
    found = {key: run.get(key) or None for key in COMPARED}
    labels = {key: value for key, value in (found["Labels"] or {}).items() if key != "io.buildah.version"}
    env = dict(entry.partition("=")[::2] for entry in found["Env"] or ())
    health = {key: value for key, value in (found["Healthcheck"] or {}).items() if value}
    shell = found["Shell"] if found["Shell"] != ["/bin/sh", "-c"] else None
    described = {"Labels": labels, "Env": env, "Healthcheck": health, "Shell": shell}
    found |= described | {"WorkingDir": found["WorkingDir"] or "/", "author": document.get("author") or None}
    return found | {"platform": (document["os"], document["architecture"])}


def merge(layers: list[bytes], *, times: bool) -> dict[str, tuple[Any, ...]]:
    """The tree that layers make, each entry as a tuple; hard links appear as what they lead to."""
    tree: dict[str, tuple[Any, ...]] = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for member in tar:
                take(tree, tar, member, times=times)
    return tree


def take(tree: dict[str, tuple[Any, ...]], tar: tarfile.TarFile, member: tarfile.TarInfo, *, times: bool) -> None:
    path = member.name.removeprefix("./").strip("/")
    head, _, name = path.rpartition("/")
    if name.startswith(".wh."):
        gone = f"{head}/" if name == ".wh..wh..opq" else f"{head}/{name[4:]}".lstrip("/")
        for other in [one for one in tree if one == gone or one.startswith(gone.rstrip("/") + "/")]:
            if other != head:
                del tree[other]
        return
    if path in ("", "."):
        return
    if member.islnk():
        tree[path] = tree[member.linkname.removeprefix("./").strip("/")]
        return
    if not member.isdir():
        for other in [one for one in tree if one.startswith(path + "/")]:
            del tree[other]
    data = tar.extractfile(member) if member.isreg() else None
    content = hashlib.sha256(data.read()).hexdigest() if data else member.linkname
    mode = member.mode & 0o7777 if not member.issym() else 0
    past = int(member.mtime) if times and member.mtime == 1_600_000_000 else None
    tree[path] = (member.type, mode, member.uid, member.gid, content, past)
