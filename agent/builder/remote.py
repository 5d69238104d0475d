"""ADD of a URL: one file over HTTP, bounded, without credentials.

Rules (attack rows 50 and 51): no user in a URL, no netrc, no proxy and nothing else of the environment; a redirect
never leads from https to http. A Dockerfile must not reach services of the host through the agent, which is in the
host's network while a step is not: every address a name has is looked at, and the one that was is connected to.
"""

from __future__ import annotations

import email.utils
import hashlib
import ipaddress
import os
import posixpath
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from agent.errors import HoldfastError, NotFound, Refused, Waiting
from agent.image.limits import UnpackLimits
from agent.image.space import check_space
from agent.oci.digest import render_shortened
from agent.store.atomic import write_all
from agent.values import frozen

if TYPE_CHECKING:
    import urllib3

MAX_REDIRECTS = 5
MAX_BYTES = 16 << 30
MAX_SECONDS = 3600.0
CHUNK = 1 << 18
_POLL_SECONDS = 0.1
_SPACE_CHECK = 64 << 20
PORTS = {"http": 80, "https": 443}
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {401, 403, 404, 410, 451}
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 30.0
_DEFAULT_MODE = 0o600


class DownloadFailed(Waiting):
    """The server could not be reached, broke off, or says that it cannot answer now."""

    reason = "DownloadFailed"


@frozen
class Download:
    """A file that came: its SHA-256 in hexadecimal, and its time in nanoseconds as the server says it, else 0."""

    digest: str
    mtime: int


class Downloader:
    """``local`` lets URLs lead to the host itself; ``check`` is called often and may raise."""

    def __init__(self, *, local: bool, check: Callable[[], None]) -> None:
        self._local = local
        self._check = check

    def fetch(self, url: str, target: Path) -> Download:
        """Write the file to ``target``, which is new. Raises Refused, NotFound, DownloadFailed, InsufficientStorage."""
        import urllib3  # by an ADD of a URL only

        shown = render_shortened(url, 200)
        deadline = time.monotonic() + MAX_SECONDS
        try:
            response, pool = self._open(url)
            try:
                with self._watched(response, deadline):
                    return self._save(response, target, shown)
            finally:
                response.close()
                pool.close()
        except urllib3.exceptions.HTTPError as error:
            self._check()
            raise DownloadFailed(f"{shown} cannot be downloaded: {render_shortened(str(error), 200)}") from None

    @contextmanager
    def _watched(self, response: urllib3.BaseHTTPResponse, deadline: float) -> Iterator[None]:
        """Break the transfer, however slow it is, when it takes too long or is not wanted any more."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_POLL_SECONDS):
                if time.monotonic() > deadline or not self._wanted():
                    with suppress(ValueError, RuntimeError, OSError):  # it may have ended meanwhile
                        response.shutdown()
                    return

        watcher = threading.Thread(target=watch, name="build-download", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _wanted(self) -> bool:
        try:
            self._check()
        except HoldfastError:
            return False
        return True

    def _open(self, url: str) -> tuple[urllib3.BaseHTTPResponse, urllib3.HTTPConnectionPool]:
        previous = ""
        for _ in range(MAX_REDIRECTS + 1):
            self._check()
            parts = parse_url(url)
            if previous == "https" and parts.scheme == "http":
                raise Refused(f"{render_shortened(url, 200)} is a redirect to what is not encrypted")
            pool = self._connect(parts)
            try:
                response = self._ask(pool, parts)
            except BaseException:
                pool.close()
                raise
            if response.status == 200:
                return response, pool
            location = response.headers.get("Location")
            response.close()
            pool.close()
            if response.status not in _REDIRECTS or not location:
                raise _explain(response.status, url)
            previous, url = parts.scheme, urljoin(url, location)
        raise Refused(f"{render_shortened(url, 200)} redirects more than {MAX_REDIRECTS} times")

    def _connect(self, parts: SplitResult) -> urllib3.HTTPConnectionPool:
        import urllib3

        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        host = parts.hostname or ""
        port = parts.port or PORTS[parts.scheme]
        address = find_address(host, port, local=self._local)
        if parts.scheme == "http":
            return urllib3.HTTPConnectionPool(address, port, timeout=timeout, retries=False)
        return urllib3.HTTPSConnectionPool(
            address, port, timeout=timeout, retries=False, server_hostname=host, assert_hostname=host
        )

    def _ask(self, pool: urllib3.HTTPConnectionPool, parts: SplitResult) -> urllib3.BaseHTTPResponse:
        path = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
        headers = {"Host": parts.netloc, "User-Agent": "holdfast", "Accept-Encoding": "identity"}
        return pool.request("GET", path, headers=headers, preload_content=False, decode_content=False, redirect=False)

    def _save(self, response: urllib3.BaseHTTPResponse, target: Path, shown: str) -> Download:
        running, size, unchecked = hashlib.sha256(), 0, _SPACE_CHECK
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _DEFAULT_MODE)
        try:
            while chunk := response.read(CHUNK):
                self._check()
                size, unchecked = size + len(chunk), unchecked + len(chunk)
                if size > MAX_BYTES:
                    raise Refused(f"{shown} is larger than {MAX_BYTES >> 30} GiB", reason="AnswerTooLong")
                if unchecked >= _SPACE_CHECK:
                    check_space(target.parent, len(chunk), UnpackLimits())
                    unchecked = 0
                running.update(chunk)
                write_all(fd, chunk)
            mtime = _parse_time(response.headers.get("Last-Modified", ""))
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)
        return Download(running.hexdigest(), mtime)


def find_address(host: str, port: int, *, local: bool) -> str:
    """The address to connect to. Raises Refused when one that the name has is the host's own and ``local`` is off."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise DownloadFailed(f"the host {render_shortened(host)} has no address") from None
    addresses = [str(item[4][0]) for item in found]
    for address in addresses:
        if not local and not is_reachable(address):
            raise Refused(
                f"{render_shortened(host)} is {address}, which a build cannot reach: it belongs to this host",
                reason="UnsafeAddress",
                hint="build with --network host if it must (network: host in a Compose file)",
            )
    return addresses[0]


def parse_url(url: str) -> SplitResult:
    """An http or https URL. Raises Refused for another, or one that holds a user."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused(f"{render_shortened(url, 200)} is not a URL") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0 or not url.isascii() or not url.isprintable():
        raise Refused(f"{render_shortened(url, 200)} is not a URL that can be downloaded")
    if "@" in parts.netloc:
        raise Refused(f"the URL of {parts.hostname} holds a user, and credentials do not belong into a Dockerfile")
    return parts._replace(path=parts.path.replace(" ", "%20"))


def compute_name(url: str) -> str:
    """The name of the file that a URL leads to. Raises Refused when it has none."""
    name = unquote(posixpath.basename(parse_url(url).path))
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
        raise Refused(
            f"{render_shortened(url, 200)} names no file", hint="say what it is to be called: ADD URL /path/name"
        )
    return name


def is_reachable(address: str) -> bool:
    """Whether a step of a build could reach this address by itself: not loopback, link-local, multicast or none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return not (mapped.is_loopback or mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified)


def _parse_time(text: str) -> int:
    try:
        moment = int(email.utils.parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
    return moment * 1_000_000_000 if 0 <= moment < 1 << 33 else 0


def _explain(status: int, url: str) -> Exception:
    shown = render_shortened(url, 200)
    if status in _GONE:
        return NotFound(f"{shown} is not there for us: the server answers {status}")
    return DownloadFailed(f"{shown} cannot be downloaded: the server answers {status}")
