"""Speaks to the agent: HTTP over its unix socket (or loopback TCP), blocking, standard library only."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.api.hostnames import UnixHost, parse_host
from agent.cli.http import Answer, BrokenAnswer, ask
from agent.errors import HoldfastError

if TYPE_CHECKING:
    from agent.api.framing import Channel

PREFIX = "/holdfast/v1"
_CHUNK = 256 << 10
_RETRY_SECONDS = 0.1
_START_HINT = (
    "start one with `holdfast agent --state DIR` (or `systemctl start holdfast`), "
    "or name another with --host or HOLDFAST_HOST"
)


class AgentUnreachable(HoldfastError):
    """Nobody answers at the host, or it may not be asked."""

    reason = "AgentUnreachable"


class AgentError(HoldfastError):
    """The agent's own error, as it came over the socket."""


def open_socket(host: str) -> socket.socket:
    """Connected to the agent. Raises AgentUnreachable."""
    place = parse_host(host)
    family = socket.AF_UNIX if isinstance(place, UnixHost) else socket.AF_INET
    if not isinstance(place, UnixHost) and ":" in place.address:
        family = socket.AF_INET6
    target: Any = place.path if isinstance(place, UnixHost) else (place.address, place.port)
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.connect(target)
    except PermissionError:
        connection.close()
        raise AgentUnreachable(f"not allowed to open {host}", hint="run it as root, or with sudo") from None
    except OSError as error:
        connection.close()
        raise AgentUnreachable(f"no agent answers on {host} ({error.strerror})", hint=_START_HINT) from None
    return connection


class Client:
    """Requests to one agent; each has a connection of its own."""

    def __init__(self, host: str) -> None:
        self.host = host

    def await_agent(self, seconds: float) -> float:
        """Return the seconds that are left as soon as an agent listens, which one that is starting does soon.

        Raises AgentUnreachable when none does in time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                open_socket(self.host).close()
            except AgentUnreachable:
                if time.monotonic() + _RETRY_SECONDS > end:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return max(0.0, end - time.monotonic())

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON answer of a question. Raises AgentUnreachable, AgentError."""
        return self._ask("GET", path, parameters)

    def post(self, path: str, **parameters: Any) -> Any:
        """The JSON answer of a command. Raises AgentUnreachable, AgentError."""
        return self._ask("POST", path, parameters)

    def _ask(self, method: str, path: str, parameters: Mapping[str, Any]) -> Any:
        with self._send(method, path, parameters, None) as answer:
            try:
                return json.loads(answer.read())
            except (BrokenAnswer, OSError, ValueError) as error:
                raise _broken(error) from None

    def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """The objects of an NDJSON answer as they come. Raises AgentUnreachable, AgentError, also in the middle."""
        with self._send(method, path, parameters, body) as answer:
            yield from read_documents(answer)

    def frames(self, path: str, **parameters: Any) -> Iterator[tuple[Channel, bytes]]:
        """The frames of a log answer up to its end. Raises AgentUnreachable, AgentError, also in the middle."""
        from agent.api.framing import Channel, FrameDecoder

        decoder = FrameDecoder()
        with self._send("GET", path, {**parameters, "format": "frames"}, None) as answer:
            try:
                while data := answer.read1(_CHUNK):
                    for channel, payload in decoder.feed(data):
                        if channel is Channel.EXIT:
                            return
                        if channel is Channel.ERROR:
                            raise make_error(json.loads(payload))
                        yield channel, payload
            except (BrokenAnswer, OSError, ValueError) as error:
                raise _broken(error) from None
        raise AgentUnreachable("the agent ended the answer", hint="it was stopped, or its log says why")

    def _send(self, method: str, path: str, parameters: Mapping[str, Any], body: Mapping[str, Any] | None) -> Answer:
        present = {name: _render(value) for name, value in parameters.items() if value is not None}
        query = f"?{encode_query(tuple(present.items()))}" if present else ""
        payload = json.dumps(body).encode() if body is not None else None
        connection = open_socket(self.host)
        try:
            answer = ask(connection, method, f"{PREFIX}{path}{query}", payload, "application/json")
        except (BrokenAnswer, OSError) as error:
            raise AgentUnreachable(
                f"{self.host} does not answer as an agent ({error})", hint="its log says why; try again"
            ) from None
        if answer.status >= 400:
            with answer:
                raise make_error(read_error(answer))
        return answer


def _render(value: Any) -> str:
    return ("1" if value else "0") if isinstance(value, bool) else str(value)


def encode_query(parameters: Sequence[tuple[str, str]]) -> str:
    """``name=value&...``, quoted."""
    from urllib.parse import urlencode

    return urlencode(parameters)


def read_documents(answer: Answer) -> Iterator[dict[str, Any]]:
    """The objects of an NDJSON answer as they come. Raises AgentUnreachable, AgentError, also in the middle."""
    try:
        for line in answer:
            document = json.loads(line)
            if set(document) == {"error"}:
                raise make_error(document["error"])
            yield document
    except (BrokenAnswer, OSError, ValueError) as error:
        raise _broken(error) from None


def _broken(error: Exception) -> AgentUnreachable:
    return AgentUnreachable(f"the agent ended the answer ({error})", hint="its log says why; try again")


def read_error(answer: Answer) -> Any:
    """The JSON of an answer that is an error."""
    try:
        return json.loads(answer.read())
    except (BrokenAnswer, OSError, ValueError):
        return {"message": f"HTTP status {answer.status} {answer.reason}"}


def make_error(document: Any) -> AgentError:
    """The agent's error from its JSON form."""
    fields = document if isinstance(document, dict) else {}
    return AgentError(
        str(fields.get("message", "unknown error")), reason=fields.get("reason") or "Unknown", hint=fields.get("hint")
    )
