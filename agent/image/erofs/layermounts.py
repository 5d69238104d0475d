"""Layer images, mounted where the tree of a layer would be: EROFS from a file (linux 6.12)."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from agent.image.erofs.layerimage import ImageWriter
from agent.image.errors import StorageFailed
from agent.image.layers.tarwriter import BLOCK
from agent.image.limits import UnpackLimits
from agent.kernel import mounts
from agent.kernel.removal import discard_tree

_ATTRIBUTES = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOATIME
_NEVER = (errno.ENODEV, errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class LayerMounts:
    """All mounts of layer images below ``root``. Thread-safe. Those that a killed agent has left are taken over."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._device = root.stat().st_dev
        self._lock = threading.Lock()
        self._tried = False
        self._failure: OSError | None = None

    @property
    def supported(self) -> bool:
        """Whether layer images can be used here: the kernel has to mount one, and overlayfs upon it, which it does not
        on a data root that lies on an overlay itself."""
        return self._find_failure() is None

    @property
    def impossible(self) -> bool:
        """Whether they never can be, with this kernel and this data root; a trial may also fail on a full disk."""
        failure = self._find_failure()
        return failure is not None and failure.errno in _NEVER

    def _find_failure(self) -> OSError | None:
        """What was found once; a trial that failed for a passing reason is made again."""
        if not self._tried:
            self._failure = self._try()
            self._tried = self._failure is None or self._failure.errno in _NEVER
        return self._failure

    def _try(self) -> OSError | None:
        directory = self._root / f"tmp-{secrets.token_hex(8)}"
        image, tree = directory / "image", directory / "fs"
        try:
            tree.mkdir(parents=True)
            _write_empty(image)
            _attach(image, tree)
            _lay_upon(tree, directory)
        except OSError as error:
            return error
        finally:
            self.detach(tree)
            discard_tree(directory)
        return None

    def attach(self, image: Path, tree: Path) -> None:
        """Mount ``image`` on ``tree`` unless it is. Raises StorageFailed."""
        if self._is_attached(tree):
            return
        with self._lock:
            if self._is_attached(tree):
                return
            try:
                _attach(image, tree)
            except OSError as error:
                raise StorageFailed(
                    f"the layer image {image} cannot be mounted: {error.strerror}",
                    hint="`holdfast image verify` finds what is damaged, and repairs it",
                ) from error

    def _is_attached(self, tree: Path) -> bool:
        try:
            return tree.stat().st_dev != self._device
        except FileNotFoundError:
            return True  # there is no place for a mount: whoever opens it is told

    def detach(self, tree: Path) -> None:
        """Unmount what is on ``tree``, if anything; who uses it keeps it."""
        with self._lock, suppress(OSError):
            while self._is_attached(tree):
                mounts.unmount(str(tree), mounts.MNT_DETACH)


def _write_empty(image: Path) -> None:
    writer = ImageWriter(image, UnpackLimits())
    try:
        writer.unpack(iter([bytes(2 * BLOCK)]))
    finally:
        writer.close()


def _lay_upon(tree: Path, below: Path) -> None:
    """Mount an overlay upon the two, nowhere. Raises OSError."""
    layers = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in (tree, below)]
    try:
        lower = ":".join(f"/proc/self/fd/{layer}" for layer in layers)
        os.close(mounts.create_filesystem("overlay", [("lowerdir", lower)], _ATTRIBUTES))
    finally:
        for layer in layers:
            os.close(layer)


def _attach(image: Path, tree: Path) -> None:
    mounted = mounts.create_filesystem("erofs", (), _ATTRIBUTES, source=str(image))
    try:
        target = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mounts.attach_mount(mounted, target)
        finally:
            os.close(target)
    finally:
        os.close(mounted)
