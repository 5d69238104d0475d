"""Whatever a file holds, the answer is an App or InvalidSpec; and an App survives being written down."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.errors import InvalidSpec, Refused
from agent.spec import keys
from agent.spec.digest import service_digest
from agent.spec.load import load_app
from agent.spec.model import App
from agent.spec.reading import Files
from agent.spec.scalars import parse_boolean, parse_duration, parse_integer, parse_mode, parse_number, parse_size

ROOT = Path("/srv/state")
FILE = ROOT / "app.yaml"
SECRET = "hunter2secret"
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def load(data: bytes, env: bytes = b"A=1\n", environment: Mapping[str, str] | None = None) -> App:
    def text_of(path: Path) -> bytes:
        if path == FILE:
            return data
        if path.suffix in (".env", "") and path.is_relative_to(ROOT):
            return env
        raise Refused("is not to be read")

    return load_app(FILE, Files(FILE.parent, ROOT, text_of, lambda *_, **__: None), environment=environment or {})


def attempt(data: bytes, env: bytes = b"A=1\n", environment: Mapping[str, str] | None = None) -> App | InvalidSpec:
    """Also checks what must be true of every answer."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("utf-8", "replace")
    count = len(lines.splitlines()) + 1
    try:
        app = load(data, env, environment)
    except InvalidSpec as error:
        assert error.problems
        for problem in error.problems:
            assert problem.message
            assert (problem.line == 0) == (problem.column == 0)
            if problem.file == str(FILE):
                assert problem.line <= count
            assert "\n" not in problem.file
        return error
    written = json.loads(json.dumps(app.model_dump(mode="json")))
    again = App.model_validate(written)
    assert again == app
    for name, service in app.services.items():
        digests = {service_digest(found, image_id="i", contents={}) for found in (service, again.services[name])}
        assert len(digests) == 1
    return app


@PATIENT
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    attempt(data)


@PATIENT
@given(st.text(max_size=300))
@example("a: !!binary x")
@example("<<: *a")
@example("? ?")
@example("services: &a {w: *a}")
@example("\ufeff\ufeffa: 1")
@example("a: '\x85'")
def test_any_text(text: str) -> None:
    attempt(text.encode("utf-8", "surrogatepass"))


@PATIENT
@given(st.text(st.sampled_from("abx:-?&*<{}[]!|>'\"%@`#, \n\t$"), max_size=200))
def test_any_text_like_yaml(text: str) -> None:
    attempt(text.encode())
    attempt(f"services:\n  web:\n    image: x\n    {text}".encode())


@PATIENT
@given(st.binary(max_size=200))
def test_any_env_file(env: bytes) -> None:
    attempt(b"services: {web: {image: x, env_file: a.env}}", env)


SOME_WORDS = """x nginx:1 80 8080:80 127.0.0.1:80:80/udp /a ./b ~/c data:/d /run:size=1m 1.5 64m 10s 1h 0 -1 true no
web db
default CMD NONE unconfined seccomp=p.env net.core.somaxconn=1 A=1 A ${A} ${B:-x} ${C:?no} $$ SIGTERM 1000:1000
NET_ADMIN service_healthy on-failure:3 any always build tmpfs bind volume"""
WORDS = st.one_of(
    st.sampled_from(SOME_WORDS.split()),
    st.text(string.printable, max_size=12),
    st.integers(-5, 70000),
    st.booleans(),
    st.none(),
    st.floats(),
)
EVERY_KEY = sorted(
    set().union(*(kind.read | kind.later for kind in vars(keys).values() if isinstance(kind, keys.Keys)))
)
NAMES = st.one_of(st.sampled_from(EVERY_KEY), st.sampled_from(["web", "db", "data", "default", "x-y", "A", "<<"]))
VALUES = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=20
)
SERVICES = st.dictionaries(st.sampled_from(sorted(keys.SERVICE.read)), VALUES, max_size=8)


@PATIENT
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_any_document_of_known_words(document: dict[str, Any]) -> None:
    attempt(yaml.dump(document).encode())


@PATIENT
@given(SERVICES, VALUES, VALUES)
def test_any_service(service: dict[str, Any], networks: Any, volumes: Any) -> None:
    document = {"services": {"web": {"image": "x", **service}}, "networks": networks, "volumes": volumes}
    attempt(yaml.dump(document).encode())


@PATIENT
@given(SERVICES)
def test_no_message_holds_the_value_of_a_variable(service: dict[str, Any]) -> None:
    text = yaml.dump({"services": {"web": service, "db": {"image": "x"}}}, width=10**6)
    text = text.replace("${A}", "${S}").replace("nginx", "$S").replace("/a", "${S:-}/a").replace("10s", "-$S")
    found = attempt(text.encode(), b"T=$S\n= \n", {"S": SECRET})
    if isinstance(found, InvalidSpec):
        assert SECRET not in "".join(problem.message for problem in found.problems)


VALID = {
    "command": st.lists(st.text(string.printable.replace("$", ""), max_size=9), max_size=3),
    "environment": st.dictionaries(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), st.text(string.ascii_letters)),
    "user": st.sampled_from(["1", "1:1", "root", "a:b"]),
    "scale": st.integers(0, 9),
    "read_only": st.booleans(),
    "stop_grace_period": st.sampled_from(["0s", "1m", "1.5s"]),
    "tmpfs": st.just("/run:size=1m"),
    "ulimits": st.fixed_dictionaries({"nofile": st.integers(1, 9)}),
    "networks": st.sampled_from([["front"], {"front": {"aliases": ["a"]}}]),
    "volumes": st.sampled_from([["data:/a"], ["./x:/b:ro"], ["/anonymous"]]),
    "ports": st.sampled_from([["80:80"], ["127.0.0.1:1-3:1-3/udp"]]),
    "healthcheck": st.sampled_from([{"disable": True}, {"test": "x", "interval": "1s"}]),
    "deploy": st.just({"resources": {"limits": {"cpus": "0.5", "memory": "1g"}}}),
}


@PATIENT
@given(st.fixed_dictionaries({}, optional=VALID))
def test_what_is_valid_is_taken_and_survives(service: dict[str, Any]) -> None:
    document = {"services": {"web": {"image": "x", **service}}, "networks": {"front": None}, "volumes": {"data": None}}
    app = attempt(yaml.dump(document, allow_unicode=True).encode())
    assert isinstance(app, App), str(app)
    if "command" in service:
        assert app.services["web"].command == tuple(service["command"])
    if "environment" in service:
        assert app.services["web"].environment == service["environment"]


@PATIENT
@given(st.integers(0, 30), st.integers(0, 12), st.sampled_from(["imgae: x", "restart: maybe", "user: 'a b'", "t: 1"]))
def test_errors_are_where_they_are(above: int, indent: int, wrong: str) -> None:
    pad = " " * indent
    text = "# comment\n" * above + f"services:\n{pad} web:\n{pad}  image: x\n{pad}  {wrong}\n"
    found = attempt(text.encode())
    assert isinstance(found, InvalidSpec)
    (problem,) = found.problems
    key, _, _ = wrong.partition(":")
    column = indent + 3 + (len(key) + 2 if key in ("restart", "user") else 0)
    assert (problem.line, problem.column) == (above + 4, column)


@PATIENT
@given(st.text(max_size=20))
@pytest.mark.parametrize("parse", [parse_boolean, parse_integer, parse_number, parse_size, parse_duration, parse_mode])
def test_scalars_are_total(parse: Any, text: str) -> None:
    parse(text)


@PATIENT
@given(st.integers(0, 10**6), st.sampled_from(["", "b", "k", "kb", "KiB", "m", "g", "T"]))
def test_sizes(number: int, unit: str) -> None:
    factor = 1024 ** " kmgt".index(unit[:1].lower().replace("b", "") or " ")
    assert parse_size(f"{number}{unit}") == number * factor


@PATIENT
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 900))
def test_durations(hours: int, minutes: int, thousandths: int) -> None:
    expected = hours * 3600 + minutes * 60 + thousandths / 1000
    assert parse_duration(f"{hours}h{minutes}m{thousandths}ms") == pytest.approx(expected)
