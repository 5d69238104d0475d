"""What pull and push say of all tags of a repository: a line for each as it ends, and how many there were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agent.cli.client import make_error
from agent.cli.main import DONE, ERROR, print_error
from agent.cli.output import safe
from agent.cli.transfer import follow


class TagView:
    """Shows the lines of one answer. ``render`` makes the text of a tag that went well, given its full name."""

    def __init__(self, repository: str, mode: str, render: Callable[[str, dict[str, Any]], str]) -> None:
        self._repository = repository
        self._mode = mode
        self._render = render
        self._counts: dict[str, Any] = {}

    def show(self, stream: Iterator[dict[str, Any]], done: str) -> int:
        """Show everything; the exit code. ``done`` is pulled or pushed. Raises what the stream raises."""
        follow(self._watch(stream), "tags", self._repository, self._mode)
        if self._mode == "show":
            print(f"{safe(self._repository)}: {self._describe(done)}")
        return ERROR if self._counts["failed"] or self._counts["untried"] else DONE

    def _watch(self, stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for document in stream:
            self._counts = document.get("tags", self._counts)
            if "tag" in document and self._mode != "json":
                self._print(document["tag"])
            yield document

    def _print(self, tag: dict[str, Any]) -> None:
        name = f"{self._repository}:{tag['name']}"
        if "error" not in tag:
            print(self._render(name, tag), flush=True)
            return
        error = make_error(tag["error"])
        error.message = safe(f"{name}: {error.message}")
        print_error(error)

    def _describe(self, done: str) -> str:
        counts = self._counts
        texts = [f"{counts['done']} tags {done}"]
        texts += [f"{counts['failed']} failed"] if counts["failed"] else []
        texts += [f"{counts['untried']} not tried, for it failed again and again"] if counts["untried"] else []
        texts += [f"{counts['left_out']} left out: signatures and the like"] if counts["left_out"] else []
        return ", ".join(texts)
