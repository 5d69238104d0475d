"""The process in which large layers are unpacked, one after the other; it ends when the agent's end is closed.

A second process, since writing thousands of small files would keep the agent's interpreter lock from everything else
that the agent does, and all layers of a pull would wait for each other on it.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

from agent.errors import HoldfastError
from agent.image.erofs.layerimage import ImageWriter
from agent.image.errors import translated_storage_errors
from agent.image.layers.layer import LayerPipeline
from agent.image.layers.undescribed import name_undescribed, write_undescribed
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.unpacking.unpackwire import MAX_DATA, Disconnected, Kind, receive, receive_data, send

_COUNTED = 4 << 20


class _Counter:
    """Tells the agent how much has come out, a few MiB at a time; the agent's budget is what bounds it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._bytes = 0

    def count(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= _COUNTED:
            self.tell()

    def tell(self) -> None:
        send(self._connection, Kind.COUNT, b"%d" % self._bytes)
        self._bytes = 0


def main(descriptor: int) -> None:
    """Serve the socket ``descriptor`` to its end."""
    with socket.socket(fileno=descriptor) as connection:
        try:
            while _unpack_one(connection):
                pass
        except Disconnected:
            return


def _unpack_one(connection: socket.socket) -> bool:
    """Do one job; whether the stream is still in step for another."""
    kind, payload = receive(connection, MAX_DATA)
    if kind is not Kind.JOB:
        raise Disconnected
    job = json.loads(payload)
    counter = _Counter(connection)
    limits = UnpackLimits(**job["limits"])
    image = ImageWriter(Path(job["image"]), limits) if job["image"] else None
    pipeline = LayerPipeline(image or Unpacker(Path(job["root"]), limits), counter)
    try:
        diff_id = pipeline.run(receive_data(connection), None)
        with translated_storage_errors():
            places = image.places if image else dict.fromkeys(pipeline.writer.implied, 0)
            write_undescribed(name_undescribed(Path(job["root"])), sorted(places.items(), reverse=True))
    except HoldfastError as error:
        failure = {"error": type(error).__name__, "message": error.message}
        send(connection, Kind.FAILED, json.dumps(failure).encode())
        return False
    counter.tell()
    send(connection, Kind.DONE, json.dumps({"diff_id": diff_id, "size": pipeline.size}).encode())
    return True
