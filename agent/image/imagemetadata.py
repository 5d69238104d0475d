"""The end of a layer image: directories and inodes; and what is said later of directories that no entry described."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.image import erofs
from agent.image.errors import UnfitForImage
from agent.image.imagefile import ImageFile, write_at
from agent.image.imagetree import ImageTree, Node, children_of
from agent.image.implied import LowerLayers, too_much_said
from agent.image.rooted import OPAQUE

RESERVED = 4608
"""Bytes kept free behind the inode of an implied directory, for the extended attributes of the layers below."""
ROOT = 2


class _Layout:
    """The number of each inode, and what follows it."""

    def __init__(self, tree: ImageTree) -> None:
        self.xattrs: list[tuple[Node, bytes]] = []
        self.end = ROOT
        self.implied = {id(node): path for path, node in tree.implied.items()}
        self._add(tree.root)
        for directory, _ in tree.walk():
            directory.links += 2
            for child in children_of(directory).values():
                if child.children is not None:
                    directory.links += 1
                if not child.number:
                    self._add(child)
                if child.children is None:
                    child.links += 1

    def _add(self, node: Node) -> None:
        try:
            xattrs = erofs.encode_xattrs(node.xattrs or {})
        except erofs.Unencodable as error:
            raise UnfitForImage(f"the layer has a file with {error}") from error
        size = erofs.INODE_SIZE + len(xattrs) + 4 * len(node.chunks or ()) + RESERVED * (id(node) in self.implied)
        node.number = self.end
        self.end += -(-size // erofs.SLOT)
        self.xattrs.append((node, xattrs))


def write_metadata(tree: ImageTree, file: ImageFile) -> dict[bytes, int]:
    """Complete the image; returns where in it the inode of each implied directory is. Raises UnfitForImage,
    OSError."""
    layout = _Layout(tree)
    for directory, parent in tree.walk():
        entries = [(name, node.number, node.mode) for name, node in children_of(directory).items()]
        entries += [(b".", directory.number, stat.S_IFDIR), (b"..", parent.number, stat.S_IFDIR)]
        directory.place, directory.size = file.add(erofs.encode_directory(entries))
    first, places = file.position, {}
    for node, xattrs in layout.xattrs:
        file.skip_to(first + node.number * erofs.SLOT)
        if id(node) in layout.implied:
            places[layout.implied[id(node)]] = file.position
        file.append(erofs.encode_inode(_describe(node), xattrs, node.number))
        if node.chunks:
            file.append(erofs.encode_chunks(node.chunks))
    file.skip_to(first + layout.end * erofs.SLOT)
    file.finish(first >> erofs.BLOCK_BITS, ROOT, len(layout.xattrs))
    return places


def _describe(node: Node) -> erofs.Inode:
    return erofs.Inode(
        *(node.mode, node.uid, node.gid, node.mtime, node.size, node.place, node.links),
        chunked=node.chunks is not None,
    )


def settle_image(image: Path, places: Mapping[bytes, int], lower: Sequence[Path]) -> None:
    """Give each implied directory of a complete image what the layers below say of it. Raises HostileLayer, OSError."""
    fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        layers = LowerLayers(lower)
        for path, place in sorted(places.items(), reverse=True):
            said = layers.find_attributes(path)
            inode, number, opaque = erofs.decode_inode(os.pread(fd, erofs.INODE_SIZE, place))
            xattrs = _encode_adopted(path, {**said.xattrs, **({OPAQUE: b"y"} if opaque else {})})
            mode = stat.S_IFDIR | said.mode
            inode = inode._replace(mode=mode, uid=said.uid, gid=said.gid, mtime=said.mtime)
            write_at(fd, erofs.encode_inode(inode, xattrs, number), place)
    finally:
        os.close(fd)


def _encode_adopted(path: bytes, xattrs: Mapping[str, bytes]) -> bytes:
    try:
        encoded = erofs.encode_xattrs({name: value for name, value in xattrs.items() if erofs.has_namespace(name)})
    except erofs.Unencodable:
        encoded = bytes(RESERVED + 1)
    if len(encoded) > RESERVED:
        raise too_much_said(path)
    return encoded
