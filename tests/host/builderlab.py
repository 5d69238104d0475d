"""A laboratory for builds: one builder on real parts (keeper, overlay, networks, cgroups), and a context to fill."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isal import igzip

from agent.builder.builder import Builder, BuilderParts
from agent.builder.order import BuildProgress
from agent.engine.model import BuildConfig
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.network.stack import NetworkStack
from agent.oci.digest import Digest
from agent.oci.imageconfig import ImageConfig
from agent.runtime.cgroups import Cgroups
from agent.runtime.client import KeeperClient
from agent.runtime.protocol import KeeperEvent
from agent.runtime.seccomp import SeccompStore
from agent.settings import compute_instance
from agent.store.database import Database
from agent.store.layout import DataLayout

BUSYBOX = Path("/bin/busybox")
FROM_HOST = """FROM scratch
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""
FROM_CONTEXT = """FROM scratch
COPY rootfs/ /
"""


class Lab:
    """``context`` is the build context. ``rootfs`` in it holds busybox with all its applets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.context = root / "context"
        self.tools = root / "tools"
        self.instance = compute_instance(root / "run")
        self.said: list[BuildProgress] = []
        self.context.mkdir()
        self.tools.mkdir()
        shutil.copy2(BUSYBOX, self.tools / "busybox")
        self.start()

    def start(self) -> None:
        """Everything an agent's builder works with, and the builder."""
        layout = DataLayout(self.root / "data")
        layout.create()
        (self.root / "run").mkdir(exist_ok=True)
        self.database = Database(layout.database)
        self.images = ImageStore(layout.root, self.database)
        self.keeper = KeeperClient(self.root / "run", self.on_event)
        self.networks = NetworkStack(self.instance, self.root / "run", self.database)
        self.cgroups = Cgroups(self.instance)
        self.builder = Builder(
            BuilderParts(
                layout=layout,
                database=self.database,
                keeper=self.keeper,
                cgroups=self.cgroups,
                seccomp=SeccompStore(layout.seccomp),
                images=self.images,
                networks=self.networks,
            )
        )
        self.keeper.connect()
        self.networks.recover([])
        self.builder.sweep()

    def on_event(self, event: KeeperEvent) -> None:
        self.builder.on_keeper_event(event)

    def stop(self) -> None:
        """End the agent's side; the keeper goes on."""
        self.keeper.close()
        self.networks.close()
        self.images.close()
        self.database.close()

    def close(self) -> None:
        self.builder.wait_tidy()
        self.networks.down()
        self.cgroups.down()
        try:
            self.keeper.shutdown()
        finally:
            self.stop()

    def add_rootfs(self) -> None:
        """A root file system in the context, for what needs a shell."""
        target = self.context / "rootfs"
        for name in ("bin", "etc", "root", "tmp"):
            (target / name).mkdir(parents=True)
        shutil.copy2(BUSYBOX, target / "bin" / "busybox")
        for applet in (
            "sh",
            "cat",
            "env",
            "id",
            "ls",
            "mkdir",
            "rm",
            "mv",
            "ln",
            "touch",
            "sleep",
            "stat",
            "wget",
            "ip",
        ):
            (target / "bin" / applet).symlink_to("busybox")
        (target / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
        (target / "etc" / "group").write_text("root:x:0:\napp:x:1001:\nextra:x:2000:app\n")

    def config(self, dockerfile: str, **fields: Any) -> BuildConfig:
        (self.context / "Dockerfile").write_text(dockerfile)
        contexts = {"host": str(self.tools), **fields.pop("contexts", {})}
        return BuildConfig(str(self.context), fields.pop("tag", "test:1"), additional_contexts=contexts, **fields)

    def build(self, dockerfile: str, cancel: threading.Event | None = None, **fields: Any) -> ImageEntry:
        self.said = []
        return self.builder.build(self.config(dockerfile, **fields), progress=self.note, cancel=cancel)

    def note(self, progress: Any) -> None:
        if isinstance(progress, BuildProgress):
            self.said.append(progress)

    def digest(self, dockerfile: str, **fields: Any) -> str:
        return self.builder.digest(self.config(dockerfile, **fields))

    @property
    def cached(self) -> list[str]:
        """The instructions whose layers came from the cache."""
        return [progress.text for progress in self.said if progress.phase == "cached"]

    @property
    def output(self) -> list[str]:
        return [progress.text for progress in self.said if progress.phase == "output"]

    def image_config(self, entry: ImageEntry) -> ImageConfig:
        return self.images.config(entry.id)

    def layer(self, entry: ImageEntry, index: int = -1) -> dict[str, tarfile.TarInfo]:
        """The members of one layer's tar, as Python's reader sees them."""
        blob = self.images.layers(entry.id)[index].descriptor.digest
        with self.open_layer(blob) as tar:
            return {info.name: info for info in tar.getmembers()}

    def open_layer(self, blob: Digest) -> tarfile.TarFile:
        data = igzip.decompress(self.images.content.path(blob).read_bytes())
        return tarfile.open(fileobj=io.BytesIO(data))

    def read(self, entry: ImageEntry, path: str) -> bytes:
        """A file of the topmost layer that has it."""
        for layer in reversed(self.images.layers(entry.id)):
            with self.open_layer(layer.descriptor.digest) as tar:
                try:
                    member = tar.extractfile(path)
                except KeyError:
                    continue
                assert member is not None
                return member.read()
        raise FileNotFoundError(path)

    def observe_leftovers(self) -> Mapping[str, Any]:
        """What a build that has ended must not leave."""
        run, data = self.root / "run", self.root / "data"
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return {
            "containers": [state.id for state in self.keeper.states()],
            "directories": sorted(path.name for path in data.glob("builds/build-*")),
            "networks": [info.name for info in self.networks.networks()],
            "cgroups": sorted(
                str(path)
                for top in ("", "*/")
                for path in Path("/sys/fs/cgroup").glob(f"{top}holdfast/{self.instance}/build-*")
            ),
            "sandboxes": sorted(path.name for path in run.glob("netns/*")),
            "mounts": [line for line in mounts if f"{data}/" in line],
        }

    def check_clean(self) -> None:
        self.builder.wait_tidy()
        left = {name: found for name, found in self.observe_leftovers().items() if found}
        assert left == {}


@contextmanager
def open_builder_lab(root: Path) -> Iterator[Lab]:
    lab = Lab(root)
    try:
        yield lab
    finally:
        lab.close()
