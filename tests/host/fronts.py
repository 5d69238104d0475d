"""What stands before a real registry and passes on what it does not answer itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from tests.unit.image.stub_registry import Answer, StubRegistry


class Front(StubRegistry):
    """Answers by ``answers``, as a StubRegistry does; other questions are asked ``behind``, an address."""

    def __init__(self, behind: str) -> None:
        super().__init__()
        self._behind = behind

    def find(self, path: str) -> Any:
        return self.answers.get(path) or (lambda headers: self._pass_on(path, headers))

    def _pass_on(self, path: str, headers: Any) -> Answer:
        request = urllib.request.Request(f"http://{self._behind}{path}", headers={"Accept": headers.get("accept", "")})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, {"Content-Type": answer.headers["Content-Type"]}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {}, b""


class TagFront(Front):
    """Lists one tag on each page, as registries with many do, by links without a host."""

    def find(self, path: str) -> Any:
        place, listing, rest = path.partition("/tags/list")
        return self._list(place + listing, int(rest.strip("/") or 0)) if listing else super().find(path)

    def _list(self, place: str, page: int) -> Answer:
        with urllib.request.urlopen(f"http://{self._behind}{place}") as answer:
            document = json.loads(answer.read())
        tags = document["tags"]
        more = {"Link": f'<{place}/{page + 1}>; rel="next"'} if page + 1 < len(tags) else {}
        return 200, more, json.dumps({**document, "tags": tags[page : page + 1]}).encode()
