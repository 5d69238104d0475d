"""One attempt to tell one receiver: a POST without redirects, proxies and cookies, or a command of the host."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from agent import __version__
from agent.builder.remote import PORTS
from agent.errors import Stalled, Waiting
from agent.network.reach import is_elsewhere
from agent.notify.notices import Notice, render_document, render_notice
from agent.spec.model import NotifyTarget

CONNECT_SECONDS = 5.0
MOST_ADDRESSES = 4
WHOLE_SECONDS = 20.0
LONGEST_RETRY_AFTER = 3600.0
_PASSING = frozenset({408, 425, 429})


class DeliveryFailed(Waiting):
    """It may work later: nobody answered, or the answer says so."""

    reason = "DeliveryFailed"


class DeliveryRefused(Stalled):
    """The receiver does not want it, or must not be asked."""

    reason = "DeliveryRefused"


def send(target: NotifyTarget, notice: Notice, *, trusted: bool) -> None:
    """Deliver, within 20 s. ``trusted``: the agent's own settings say so; others may not reach the host itself.

    Raises DeliveryFailed and DeliveryRefused; their messages name no URL.
    """
    if target.command:
        _run(target.command, render_document(notice))
    else:
        _post(target, notice, trusted=trusted)


def sign(secret: str, body: bytes) -> str:
    """The value of ``X-Holdfast-Signature``: ``sha256=`` and the HMAC-SHA256 of the body in hexadecimal. ``secret`` is
    in base64."""
    return "sha256=" + hmac.new(base64.b64decode(secret), body, hashlib.sha256).hexdigest()


def _post(target: NotifyTarget, notice: Notice, *, trusted: bool) -> None:
    headers, body = render_notice(notice, target)
    headers = {**headers, "User-Agent": f"holdfast/{__version__}", "X-Holdfast-Delivery": notice.id}
    if target.secret:
        headers["X-Holdfast-Signature"] = sign(target.secret, body)
    parts = urlsplit(target.url)
    try:
        connection = _connect(parts, trusted=trusted)
        late = threading.Event()
        watch = threading.Timer(WHOLE_SECONDS, _break, [connection, late])
        watch.daemon = True
        watch.start()
        try:
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
            path = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
            connection.request("POST", path, body, {"Host": parts.netloc, **headers})
            answer = connection.getresponse()
            if late.is_set():  # what was cut off may look whole
                raise TimeoutError
            _judge(answer.status, answer.headers.get("Retry-After", ""))
        finally:
            watch.cancel()
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise DeliveryFailed(f"the receiver's certificate is not valid: {error.verify_message}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryFailed(f"the receiver does not answer ({type(error).__name__})") from None


def _connect(parts: SplitResult, *, trusted: bool) -> http.client.HTTPConnection:
    """A connection to an address that was looked at, so that the name cannot mean another one a moment later; over TLS
    the handshake is yet to be made."""
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    found = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not trusted and not all(map(is_elsewhere, found)):
        raise DeliveryRefused(
            "an app's webhook must not lead to this host itself or to a container of it",
            hint="name it in the agent's own notify file",
        )
    stream = _reach(found[:MOST_ADDRESSES], port)
    try:
        stream.settimeout(WHOLE_SECONDS)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            stream = context.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        stream.close()
        raise
    connection = http.client.HTTPConnection(host, port)
    connection.sock = stream
    return connection


def _reach(addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first address that takes one, as a name may have some that lead nowhere. Raises OSError."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), CONNECT_SECONDS)
    return socket.create_connection((addresses[-1], port), CONNECT_SECONDS)


def _break(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    """End what comes too slowly, a handshake too: below TLS, which another thread is busy with."""
    late.set()
    with contextlib.suppress(OSError, TypeError):
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _judge(status: int, retry_after: str) -> None:
    if 200 <= status < 300:
        return
    if status in _PASSING or status >= 500:
        wait = min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after.isdecimal() else 0.0
        raise DeliveryFailed(f"the receiver answers with status {status}", retry_after=wait)
    raise DeliveryRefused(f"the receiver answers with status {status}")


def _run(command: tuple[str, ...], document: bytes) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise DeliveryFailed(f"the command cannot be run: {error.strerror}") from None
    try:
        process.communicate(document, WHOLE_SECONDS)
    except subprocess.TimeoutExpired:
        raise DeliveryFailed(f"the command has not ended after {WHOLE_SECONDS:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise DeliveryFailed(f"the command ended with code {process.returncode}")
