"""``x-holdfast.probes``: checks of readiness, liveness and startup, with the meaning and defaults of the kubelet.

Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/. What differs from it is
said at ``Probe`` and ``HttpCheck`` (agent/spec/model.py).
"""

from __future__ import annotations

import re

from agent.spec.fields import Fields, read_pairs
from agent.spec.keys import HTTP_CHECK, PROBE, PROBE_COMMAND, PROBES, TCP_CHECK
from agent.spec.model import HttpCheck, Probe, Probes, TcpCheck
from agent.spec.reading import show_name

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}\Z")
_PATH = re.compile(r"/[!-~]*\Z")
_MOST_HEADERS = 32
_LONGEST_VALUE = 4096
_SHORTEST_PERIOD = 0.01
_SHORTEST_TIMEOUT = 0.001
_SCHEMES = frozenset({"http", "https"})
_CHECKS = ("exec", "http", "tcp")
_OURS = frozenset({"connection", "content-length", "host", "transfer-encoding"})


def read_probes(own: Fields | None) -> Probes | None:
    """The probes of a service, from its ``x-holdfast``; None without any."""
    fields = own.nested("probes", PROBES) if own is not None else None
    if fields is None:
        return None
    readiness = _read_probe(fields, "readiness")
    liveness, startup = _read_probe(fields, "liveness"), _read_probe(fields, "startup")
    found = Probes(readiness=readiness, liveness=liveness, startup=startup)
    return found if found != Probes() else None


def _read_probe(probes: Fields, name: str) -> Probe | None:
    fields = probes.nested(name, PROBE)
    if fields is None:
        return None
    given = [check for check in _CHECKS if fields.node_of(check) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        probes.complain(name, f"takes exactly one of {', '.join(_CHECKS)}, not {found}")
    successes = fields.integer("success_threshold", 1)
    if name != "readiness" and successes not in (None, 1):
        fields.complain("success_threshold", f"must be 1 for {name}")
    defaults = Probe()
    period, timeout = fields.duration("period"), fields.duration("timeout")
    for field, value, least in (("period", period, _SHORTEST_PERIOD), ("timeout", timeout, _SHORTEST_TIMEOUT)):
        if value is not None and value < least:
            fields.complain(field, f"must be at least {least * 1000:g}ms")
    return Probe(
        http=_read_http(fields),
        tcp=_read_tcp(fields),
        command=_read_command(fields),
        initial_delay=fields.duration("initial_delay") or 0.0,
        period=defaults.period if period is None else period,
        timeout=defaults.timeout if timeout is None else timeout,
        success_threshold=successes or 1,
        failure_threshold=fields.integer("failure_threshold", 1) or defaults.failure_threshold,
    )


def _read_port(fields: Fields) -> int:
    if fields.node_of("port") is None:
        fields.complain("port", "must be given, the port inside of the container")
    return fields.integer("port", 1, 65535) or 1


def _read_tcp(probe: Fields) -> TcpCheck | None:
    fields = probe.nested("tcp", TCP_CHECK)
    return TcpCheck(port=_read_port(fields)) if fields is not None else None


def _read_command(probe: Fields) -> tuple[str, ...]:
    fields = probe.nested("exec", PROBE_COMMAND)
    if fields is None:
        return ()
    words = tuple(text for _, text in fields.texts("command"))
    if not words or not words[0]:
        fields.complain("command", "must be a list that begins with a program, such as [cat, /tmp/ready]")
    return words


def _read_http(probe: Fields) -> HttpCheck | None:
    fields = probe.nested("http", HTTP_CHECK)
    if fields is None:
        return None
    path, host = fields.text("path"), fields.text("host")
    if path is not None and not _PATH.match(path):
        fields.complain("path", f"{fields.shown('path')} is no path of a URL: it begins with / and has no spaces")
    if host is not None and not _HOST.match(host):
        fields.complain("host", f"{fields.shown('host')} is no host name")
    return HttpCheck(
        port=_read_port(fields),
        path=path or "/",
        scheme="https" if fields.choice("scheme", _SCHEMES) == "https" else "http",
        host=host or "",
        headers=_read_headers(fields),
    )


def _read_headers(http: Fields) -> tuple[tuple[str, str], ...]:
    node = http.node_of("headers")
    if node is None:
        return ()
    found: list[tuple[str, str]] = []
    for key, value in read_pairs(http.reading, node, http.at("headers")):
        name, path = key.source, f"{http.at('headers')}.{key.source[:60]}"
        text = http.reading.text(value, path)
        if not _TOKEN.match(name):
            http.reading.complain(key, f"{http.at('headers')}: {show_name(key, name)} is no name of a header")
        elif name.lower() in _OURS:
            hint = "use host" if name.lower() == "host" else "it is set by the probe"
            http.reading.complain(key, f"{path}: cannot be given ({hint})")
        elif text is not None and not _is_value(text):
            http.reading.complain(value, f"{path}: must be printable ASCII of at most {_LONGEST_VALUE} characters")
        elif text is not None:
            found.append((name, text))
    if len(found) > _MOST_HEADERS:
        http.complain("headers", f"at most {_MOST_HEADERS} can be given")
    return tuple(found)


def _is_value(text: str) -> bool:
    return len(text) <= _LONGEST_VALUE and all(" " <= letter <= "~" for letter in text)
