"""``x-holdfast.probes``: the kubelet's defaults, and every refusal with its place."""

from __future__ import annotations

import pytest
from spec_loading import load, problems_of, service

from agent.spec.digest import NOT_OF_THE_CONTAINER, canonical_digest, service_digest
from agent.spec.model import HttpCheck, Probe, Probes, TcpCheck


def probes_of(text: str) -> Probes | None:
    return load(f"services:\n  web:\n    image: a\n    x-holdfast:\n      probes: {text}\n").services["web"].probes


def test_defaults_are_those_of_the_kubelet() -> None:
    probes = probes_of("{readiness: {http: {port: 8080}}}")
    assert probes == Probes(readiness=Probe(http=HttpCheck(port=8080)))
    probe = Probe()
    assert (probe.initial_delay, probe.period, probe.timeout) == (0.0, 10.0, 1.0)
    assert (probe.success_threshold, probe.failure_threshold) == (1, 3)


def test_everything_can_be_said() -> None:
    probes = probes_of(
        "{readiness: {http: {port: 443, path: '/a?b=c', scheme: https, host: shop.example, headers: {X-A: b}},"
        " initial_delay: 2s, period: 500ms, timeout: 3s, success_threshold: 2, failure_threshold: 4},"
        " liveness: {tcp: {port: 5432}}, startup: {exec: {command: [cat, /tmp/up]}}}"
    )
    check = HttpCheck(port=443, path="/a?b=c", scheme="https", host="shop.example", headers=(("X-A", "b"),))
    numbers = {"initial_delay": 2.0, "period": 0.5, "timeout": 3.0, "success_threshold": 2, "failure_threshold": 4}
    assert probes == Probes(
        readiness=Probe(http=check, **numbers),
        liveness=Probe(tcp=TcpCheck(port=5432)),
        startup=Probe(command=("cat", "/tmp/up")),
    )


@pytest.mark.parametrize("text", ["{}", "", "{readiness: }"])
def test_nothing_said_is_no_probe(text: str) -> None:
    assert probes_of(text) is None


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("{readines: {}}", 16, "unknown key; the nearest known one is 'readiness'"),
        ("{readiness: {}}", 27, "takes exactly one of exec, http, tcp, not none"),
        ("{readiness: {tcp: {port: 1}, exec: {command: [a]}}}", 27, "of exec, http, tcp, not exec and tcp"),
        ("{liveness: {tcp: {port: 1}, success_threshold: 2}}", 62, "must be 1 for liveness"),
        ("{liveness: {tcp: {port: 1}, failure_threshold: 0}}", 62, "is not an integer from 1 to"),
        ("{readiness: {tcp: {}}}", 33, "must be given, the port inside of the container"),
        ("{readiness: {tcp: {port: 70000}}}", 40, "is not an integer from 1 to 65535"),
        ("{readiness: {tcp: {port: 1}, period: 0s}}", 52, "must be at least 10ms"),
        ("{readiness: {tcp: {port: 1}, timeout: 0s}}", 53, "must be at least 1ms"),
        ("{readiness: {exec: {command: []}}}", 44, "must be a list that begins with a program"),
        ("{readiness: {http: {port: 1, path: 'a b'}}}", 50, "is no path of a URL"),
        ("{readiness: {http: {port: 1, scheme: ftp}}}", 52, "'ftp' is none of http, https"),
        ("{readiness: {http: {port: 1, host: 'a/b'}}}", 50, "is no host name"),
        ("{readiness: {http: {port: 1, headers: {Host: a}}}}", 54, "cannot be given (use host)"),
        ("{readiness: {http: {port: 1, headers: {'a b': c}}}}", 54, "is no name of a header"),
        ('{readiness: {http: {port: 1, headers: {a: "b\\r\\nc"}}}}', 57, "must be printable ASCII"),
    ],
)
def test_refusals_say_where(text: str, column: int, message: str) -> None:
    (problem,) = problems_of(f"services:\n  web:\n    image: a\n    x-holdfast:\n      probes: {text}\n")
    assert problem.startswith(f"5:{column}: ")
    assert message in problem


def test_probes_do_not_decide_how_a_container_is_made() -> None:
    texts = ("{liveness: {tcp: {port: 1}}}", "{readiness: {tcp: {port: 2}}}")
    apps = [
        load(f"services:\n  web:\n    image: a\n    x-holdfast:\n      probes: {text}\n").services["web"]
        for text in texts
    ]
    one, other = (service_digest(service, image_id="sha256:1", contents={}) for service in apps)
    assert one == other


def test_reserved_memory_counts_for_a_container_only_when_it_is_said() -> None:
    plain, kept = (service(f"deploy: {{resources: {{reservations: {{memory: {size}}}}}}}") for size in ("0", "64M"))
    assert (plain.memory_reservation, kept.memory_reservation, kept.memory) == (None, 64 << 20, None)
    digests = [service_digest(found, image_id="i", contents={}) for found in (plain, kept)]
    without = plain.model_dump(mode="json", exclude={*NOT_OF_THE_CONTAINER, "memory_reservation"})
    assert digests[0] == canonical_digest({"service": without, "image": "i", "contents": {}}) != digests[1]
