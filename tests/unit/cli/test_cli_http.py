"""The client's own HTTP against answers of all kinds, also broken ones, and against Python's."""

from __future__ import annotations

import http.client
import io
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.http import Answer, BrokenAnswer, ask

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def answer_with(data: bytes) -> Answer:
    """What the client makes of these bytes and the end of the connection."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_serve, args=(theirs, data), daemon=True).start()
    return ask(ours, "GET", "/")


def _serve(connection: socket.socket, data: bytes) -> None:
    with connection:
        while not connection.recv(4096).endswith(b"\r\n\r\n"):
            pass
        connection.sendall(data)


def test_bodies_of_every_form() -> None:
    for data, body in (
        (HEAD + b"Content-Length: 5\r\n\r\nhello and more", b"hello"),
        (HEAD + b"content-length: 0\r\n\r\n", b""),
        (HEAD + b"\r\nuntil the end", b"until the end"),
        (CHUNKED + b"5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\nTrailer: x\r\n\r\n", b"hello!"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ):
        with answer_with(data) as answer:
            assert answer.read() == body
            assert answer.read1(10) == b""


def test_lines_are_whole_however_they_come() -> None:
    with answer_with(CHUNKED + b"3\r\na\nb\r\n4\r\nb\n\nc\r\n0\r\n\r\n") as answer:
        assert list(answer) == [b"a\n", b"bb\n", b"\n", b"c"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        HEAD + b"Content-Length: 5",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 5\r\n\r\nhell",
        HEAD + b"X: y\r\n" * 300 + b"\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\n\r\n",
        CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"xyz\r\nhello\r\n",
    ],
)
def test_answers_that_are_none_or_not_whole(data: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        answer_with(data).read()


class _Given:
    """A socket of these bytes, as http.client wants it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


@settings(max_examples=40)
@given(pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8), status=st.integers(200, 599))
def test_it_reads_what_pythons_own_client_reads(pieces: list[bytes], status: int) -> None:
    head = f"HTTP/1.1 {status} Something\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    data = head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    theirs = http.client.HTTPResponse(_Given(data))  # type: ignore[arg-type]
    theirs.begin()
    with answer_with(data) as ours:
        assert (ours.status, ours.reason, ours.read()) == (theirs.status, theirs.reason, theirs.read())
