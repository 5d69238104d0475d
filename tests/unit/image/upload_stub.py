"""A registry that takes uploads, and fails where it is told to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.unit.image.loopback import LoopbackServer

PREFIX = "/v2/team/app/"
Answer = tuple[int, Mapping[str, str]]


@dataclass
class Fault:
    """What is done with the ``number``th request of a method (from 1): an answer instead of the right one, or, with
    ``cut``, the end of the connection after that many bytes of the body were taken."""

    method: str
    number: int
    answer: Answer | None = None
    cut: int | None = None
    taken: int = 0


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False, default=b"")


class UploadRegistry(LoopbackServer):
    """Blobs, upload sessions with offsets, manifests. ``mountable`` are (repository, digest) that can be mounted;
    ``place`` makes the Location of an upload from its path."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.mountable: set[tuple[str, str]] = set()
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.place: Callable[[str], str] = lambda path: path
        self.start: Mapping[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self._counts: dict[str, int] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def __getattr__(self, name: str) -> Callable[[], None]:
                if not name.startswith("do_"):
                    raise AttributeError(name)
                return lambda: registry.handle(self)

        super().__init__(Handler)

    def handle(self, asked: BaseHTTPRequestHandler) -> None:
        if asked.path == "/v2/":
            self._reply(asked, (200, {}))
            return
        count = self._counts[asked.command] = self._counts.get(asked.command, 0) + 1
        fault = next((f for f in self.faults if (f.method, f.number) == (asked.command, count)), None)
        length = int(asked.headers.get("Content-Length") or 0)
        body = asked.rfile.read(min(length, fault.cut) if fault and fault.cut is not None else length)
        seen = Seen(asked.command, asked.path, {key.lower(): value for key, value in asked.headers.items()}, body)
        self.seen.append(seen)
        if fault and fault.cut is not None:
            name = asked.path.partition("?")[0].rpartition("/")[2]
            if fault.taken and name in self.uploads:
                self.uploads[name] += body[: fault.taken]
            asked.close_connection = True
            return
        self._reply(asked, fault.answer if fault and fault.answer else self._answer(seen))

    def _reply(self, asked: BaseHTTPRequestHandler, answer: Answer) -> None:
        asked.send_response(answer[0])
        for key, value in {"Content-Length": "0", **answer[1]}.items():
            asked.send_header(key, value)
        asked.end_headers()

    def _answer(self, seen: Seen) -> Answer:
        parts = urlsplit(seen.path)
        path, query = parts.path.removeprefix(PREFIX), parse_qs(parts.query)
        if path.startswith("manifests/"):
            self.manifests[path] = seen.body
            return 201, {}
        if path == "blobs/uploads/":
            return self._begin(query)
        if path.startswith("blobs/uploads/"):
            return self._go_on(seen, path.removeprefix("blobs/uploads/"), query)
        return (200 if path.removeprefix("blobs/") in self.blobs else 404), {}

    def _begin(self, query: Mapping[str, list[str]]) -> Answer:
        source = (query.get("from", [""])[0], query.get("mount", [""])[0])
        if source in self.mountable:
            return 201, {}
        name = str(len(self.uploads))
        self.uploads[name] = b""
        return 202, {"Location": self.place(f"{PREFIX}blobs/uploads/{name}"), **self.start}

    def _go_on(self, seen: Seen, name: str, query: Mapping[str, list[str]]) -> Answer:
        if name not in self.uploads:
            return 404, {}
        have = self.uploads[name]
        stands = {"Location": self.place(f"{PREFIX}blobs/uploads/{name}"), "Range": f"0-{max(len(have) - 1, 0)}"}
        if seen.method == "GET":
            return 204, stands
        if seen.method == "DELETE":
            del self.uploads[name]
            return 204, {}
        begin = re.match(r"(\d+)-\d+\Z", seen.headers.get("content-range", f"{len(have)}-0"))
        if begin is None or int(begin[1]) != len(have):
            return 416, stands
        self.uploads[name] = have = have + seen.body
        if seen.method == "PATCH":
            return 202, {**stands, "Range": f"0-{len(have) - 1}"}
        del self.uploads[name]
        digest = query["digest"][0]
        if f"sha256:{hashlib.sha256(have).hexdigest()}" != digest:
            return 400, {}
        self.blobs[digest] = have
        return 201, {"Docker-Content-Digest": digest}

    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]
