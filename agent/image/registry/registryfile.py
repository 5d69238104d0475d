"""The registries file: how each registry is reached. All its problems are told at once, with line and column.

registries:
  docker.io:                                  # as image references write it
    mirrors:
      - https://mirror.example                # asked first, by digest only
      - {url: "https://cache.example/hub", tags: true, rewrite: {"^library/(.*)": "hub/$1"}}
  registry.example:5000:
    url: https://10.0.0.5/prefix              # what stands before /v2/
    ca: ca.pem                                # besides the system's; paths start at this file
    client_certificate: client.pem
    client_key: client.key
    insecure: true                            # plain HTTP is allowed
    skip_verify: true                         # any certificate is taken
    rewrite: {"^(.*)$": "team/$1"}            # what a repository is called there
    credential_helper: pass                   # runs docker-credential-pass
    token_server: auth.example                # may see the credentials, too
    proxy: http://proxy.example:3128          # leads to this host; none: no proxy does
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from agent.errors import HoldfastError, Problem, Refused, Stalled
from agent.image.origin import is_loopback, parse_origin
from agent.image.proxies import DIRECT, Proxy, parse_proxy
from agent.image.registry.endpoints import HostSettings, Mirror, Registries, Rewrite, name_of
from agent.oci.reference import InvalidReference, parse_reference

MAX_FILE = 1 << 20
_TEXTS = ("url", "credential_helper", "token_server")
_PATHS = ("ca", "client_certificate", "client_key")
_FLAGS = ("insecure", "skip_verify")
_KEYS = (*_TEXTS, *_PATHS, *_FLAGS, "mirrors", "rewrite", "proxy")
_MIRROR_KEYS = ("url", "tags", "rewrite")
_SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_URL_PATH = re.compile(rf"(?:{_SEGMENT}(?:/{_SEGMENT})*)?\Z", re.ASCII)
HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)


class InvalidRegistriesFile(Stalled):
    """The registries file cannot be used; the message has one line for each problem."""

    reason = "InvalidRegistriesFile"


def load_registries(path: Path | None, *, required: bool = False) -> Registries:
    """What the file says; nothing when there is no file and it is not ``required``.

    Raises InvalidRegistriesFile.
    """
    if path is None:
        return Registries()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise InvalidRegistriesFile(f"{path}: there is no such file") from None
        return Registries()
    except OSError as error:
        raise InvalidRegistriesFile(f"{path}: {error.strerror}") from error
    return parse_registries(data, path)


def parse_registries(data: bytes, path: Path) -> Registries:
    """The settings in a registries file's bytes. Raises InvalidRegistriesFile with all its problems."""
    reader = _Reader(path)
    hosts = reader.read(data)
    if reader.problems:
        raise InvalidRegistriesFile("\n".join(str(problem) for problem in sorted(reader.problems)))
    return Registries(hosts)


class _Reader:
    """Reads YAML nodes, notes problems and goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problems: list[Problem] = []

    def _complain(self, node: yaml.Node | None, message: str) -> None:
        mark = node.start_mark if node is not None else None
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        self.problems.append(Problem(str(self._path), line, column, message))

    def read(self, data: bytes) -> dict[str, HostSettings]:
        if len(data) > MAX_FILE:
            self._complain(None, f"larger than {MAX_FILE} bytes")
            return {}
        try:
            root = yaml.compose(data, yaml.CSafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            said = str(getattr(error, "problem", None) or "not valid YAML")
            self.problems.append(Problem(str(self._path), line, column, said))
            return {}
        hosts: dict[str, HostSettings] = {}
        nodes: dict[str, yaml.Node] = {}
        for _, value in self._pairs(root, "the file", ("registries",)) if root else ():
            for key, node in self._pairs(value, "registries", None):
                name = self._registry(key)
                if name in hosts:
                    self._complain(key, f"{name} is there twice")
                hosts[name], nodes[name] = self._host(name, node), node
        for name, settings in hosts.items():
            self._check_plain(nodes[name], name, settings, hosts)
            self._check_proxy(nodes[name], name, settings)
        return hosts

    def _pairs(
        self, node: yaml.Node | None, where: str, known: tuple[str, ...] | None
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Keys and values of a mapping, each key once."""
        if not isinstance(node, yaml.MappingNode):
            if not (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
                self._complain(node, f"{where}: not a mapping")
            return
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._complain(key, f"{where}: a key is not a text")
            elif key.value in seen:
                self._complain(key, f"{where}: {key.value[:60]} is there twice")
            elif known is not None and key.value not in known:
                near = difflib.get_close_matches(key.value[:60].lower(), known, n=1)
                hint = f"; the nearest known one is {near[0]!r}" if near else f"; known are {', '.join(known)}"
                self._complain(key, f"{where}: unknown key {key.value[:60]!r}{hint}")
            else:
                seen.add(key.value)
                yield key, value

    def _registry(self, key: yaml.ScalarNode) -> str:
        text: str = key.value
        try:
            found = parse_reference(f"{text}/team/app").registry
        except InvalidReference:
            found = ""
        if not found or found != text.lower():
            self._complain(key, f"registries: {text[:80]!r} is no registry as references write it (host[:port])")
        return found or text

    def _host(self, name: str, node: yaml.Node) -> HostSettings:
        values: dict[str, object] = {}
        for key, value in self._pairs(node, name, _KEYS):
            where = f"{name}.{key.value}"
            if key.value in _FLAGS:
                values[key.value] = self._flag(value, where)
            elif key.value in _PATHS:
                values[key.value] = self._file(value, where)
            elif key.value == "mirrors":
                values["mirrors"] = tuple(self._mirrors(value, where))
            elif key.value == "rewrite":
                values["rewrite"] = tuple(self._rewrites(value, where))
            elif key.value == "proxy":
                values["proxy"] = self._proxy(value, where)
            else:
                values[key.value] = self._text_of(key.value, value, where)
        if ("client_key" in values) != ("client_certificate" in values):
            self._complain(node, f"{name}: client_certificate and client_key go together")
        return HostSettings(**values)  # type: ignore[arg-type]

    def _text_of(self, key: str, node: yaml.Node, where: str) -> str:
        text = self._text(node, where)
        if key == "url":
            return self._url(node, text, where)
        if key == "credential_helper" and text and not HELPER_NAME.match(text):
            self._complain(node, f"{where}: not the name of a helper: what follows docker-credential- in its name")
        if key == "token_server" and text:
            return self._server(node, text, where)
        return text

    def _server(self, node: yaml.Node, text: str, where: str) -> str:
        try:
            origin = parse_origin(f"https://{text}")
        except Refused:
            origin = None
        if origin is None or "/" in text:
            self._complain(node, f"{where}: not a host or host:port")
            return ""
        return name_of(origin)

    def _proxy(self, node: yaml.Node, where: str) -> Proxy | None:
        text = self._text(node, where)
        try:
            return DIRECT if text == "none" else parse_proxy(text) if text else None
        except Refused as error:
            self._complain(node, f"{where}: {error.message}: {error.hint}, or none")
            return None

    def _text(self, node: yaml.Node, where: str) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" and node.value:
            return str(node.value)
        self._complain(node, f"{where}: not a text")
        return ""

    def _flag(self, node: yaml.Node, where: str) -> bool:
        if isinstance(node, yaml.ScalarNode) and node.value in ("true", "false"):
            return bool(node.value == "true")
        self._complain(node, f"{where}: neither true nor false")
        return False

    def _file(self, node: yaml.Node, where: str) -> Path | None:
        text = self._text(node, where)
        if not text:
            return None
        path = self._path.parent / text
        if not path.is_file():
            self._complain(node, f"{where}: there is no file {path}")
        return path

    def _url(self, node: yaml.Node, text: str, where: str) -> str:
        """``https://host[:port][/prefix]``, without a slash or ``/v2`` at its end."""
        if not text:
            return ""
        url = text.rstrip("/").removesuffix("/v2").rstrip("/")
        _, slash, path = url.partition("://")[2].partition("/")
        try:
            origin = parse_origin(url)
        except HoldfastError:
            self._complain(node, f"{where}: not a URL like https://host[:port][/prefix]")
            return ""
        if not _URL_PATH.match(path):
            self._complain(node, f"{where}: after the host only a plain path may stand")
        return f"{origin}{slash}{path}"

    def _mirrors(self, node: yaml.Node, where: str) -> Iterator[Mirror]:
        if not isinstance(node, yaml.SequenceNode):
            self._complain(node, f"{where}: not a list")
            return
        for item in node.value:
            if isinstance(item, yaml.ScalarNode):
                yield Mirror(self._url(item, self._text(item, where), where))
                continue
            url, tags, rewrite = "", False, ()  # type: str, bool, tuple[Rewrite, ...]
            for key, value in self._pairs(item, where, _MIRROR_KEYS):
                if key.value == "url":
                    url = self._url(value, self._text(value, where), f"{where}.url")
                elif key.value == "tags":
                    tags = self._flag(value, f"{where}.tags")
                else:
                    rewrite = tuple(self._rewrites(value, f"{where}.rewrite"))
            if not url and isinstance(item, yaml.MappingNode):
                self._complain(item, f"{where}: a mirror needs its url")
            yield Mirror(url, tags, rewrite)

    def _rewrites(self, node: yaml.Node, where: str) -> Iterator[Rewrite]:
        for key, value in self._pairs(node, where, None):
            rule = Rewrite(key.value, self._text(value, where))
            try:
                rule.apply("library/app")
            except (re.error, OverflowError, RecursionError) as error:
                self._complain(key, f"{where}: not a pattern and its replacement: {error}")
                continue
            yield rule

    def _check_proxy(self, node: yaml.Node, name: str, settings: HostSettings) -> None:
        """Loopback is this machine, and another one when a proxy is asked for it."""
        url = settings.url or f"https://{name}"
        if settings.proxy is not None and settings.proxy.url and is_loopback(parse_origin(url).host):
            self._complain(node, f"{name}: a proxy cannot lead to {parse_origin(url).authority}, which is this machine")

    def _check_plain(self, node: yaml.Node, name: str, settings: HostSettings, hosts: dict[str, HostSettings]) -> None:
        """Plain HTTP only to loopback, or where an entry says ``insecure``."""
        for url in (settings.url, *(mirror.url for mirror in settings.mirrors)):
            if not url.startswith("http://"):
                continue
            origin = parse_origin(url)
            own = settings if url == settings.url else hosts.get(name_of(origin))
            if not is_loopback(origin.host) and not (own and own.insecure):
                self._complain(node, f"{name}: {url} is not encrypted: say insecure under {name_of(origin)}")
