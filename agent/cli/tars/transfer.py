"""Tars between this command and the agent: uploads of unknown length, downloads that are whole only at their end."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agent.cli.client import (
    PREFIX,
    AgentUnreachable,
    encode_query,
    make_error,
    open_socket,
    read_documents,
    read_error,
)
from agent.cli.http import Answer, BrokenAnswer, ask

CHUNK = 256 << 10
Parameters = Sequence[tuple[str, str]]


def download(host: str, path: str, parameters: Parameters) -> Iterator[bytes]:
    """The pieces of a tar. Raises AgentUnreachable, AgentError; also in the middle, when it is not whole."""
    with _begin(host, "GET", path, parameters, ()) as answer:
        try:
            while piece := answer.read1(CHUNK):
                yield piece
        except (BrokenAnswer, OSError) as error:
            raise AgentUnreachable(
                f"the agent broke the transfer off ({error})", hint="its log says why; what came is not whole"
            ) from None


def upload(host: str, path: str, parameters: Parameters, chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Send ``chunks``, then give the objects of the NDJSON answer as they come. Raises AgentUnreachable, AgentError."""
    with _begin(host, "POST", path, parameters, chunks) as answer:
        yield from read_documents(answer)


def _begin(host: str, method: str, path: str, parameters: Parameters, chunks: Iterable[bytes]) -> Answer:
    query = f"?{encode_query(parameters)}" if parameters else ""
    target = f"{PREFIX}{path}{query}"
    connection = open_socket(host)
    try:
        request = f"{method} {target}"
        answer = ask(connection, method, target) if method == "GET" else _send(connection, request, chunks)
    except (BrokenAnswer, OSError) as error:
        connection.close()
        raise AgentUnreachable(f"{host} does not answer as an agent ({error})", hint="its log says why") from None
    except BaseException:
        connection.close()
        raise
    if answer.status >= 400:
        with answer:
            raise make_error(read_error(answer))
    return answer


def _send(connection: socket.socket, request: str, chunks: Iterable[bytes]) -> Answer:
    """Send the request in chunks; an agent that answers before the end refuses, and need not hear the rest."""
    head = [f"{request} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/x-tar"]
    connection.sendall("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
    try:
        for chunk in chunks:
            if select.select([connection], [], [], 0)[0]:
                break
            if chunk:
                connection.sendall(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        else:
            connection.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has answered, and closed
    return Answer(connection.makefile("rb"), connection)
