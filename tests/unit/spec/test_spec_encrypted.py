"""Encrypted files in an app: their values go where nobody sees them, and no message tells of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrage import encrypt as seal
from pyrage import x25519
from spec_loading import FILE, load

from agent.controller.deploy.revisions import AppRevision
from agent.controller.deploy.revisionviews import compare_revisions
from agent.errors import InvalidSpec, Problem
from agent.notify.notifier import Receiver
from agent.plan.diff import compute_changes
from agent.plan.observed import ImageState
from agent.plan.wants import DesiredApp
from agent.spec.encrypted import BLIND
from agent.spec.model import App, Service
from agent.store.hostkeys import HostKeys
from agent.store.identities import make_identity

SECRET = "hunter2"
ENV = f"TOKEN={SECRET}-t\nHOOK={SECRET}-h\n"


class Host:
    """A host with an identity, and what is encrypted for it."""

    def __init__(self, place: Path) -> None:
        self.path = place / "age.key"
        self.recipient = x25519.Recipient.from_str(make_identity(self.path)[0].recipients[0])
        self.keys = HostKeys(self.path, b"secret of the host")

    def seal(self, text: str | bytes) -> bytes:
        return bytes(seal(text if isinstance(text, bytes) else text.encode(), [self.recipient], armored=True))

    def load(self, text: str, keys: HostKeys | None = None, **files: str | bytes) -> App:
        """The files are encrypted; ``plain_NAME`` is not. ``env`` is ``.env``."""
        found = {_name(name): data if name.startswith("plain_") else self.seal(data) for name, data in files.items()}
        self.warnings: list[Problem] = []
        return load(text, found, keys=keys or self.keys, warnings=self.warnings)

    def service(self, body: str, **files: str | bytes) -> Service:
        return self.load(f"services: {{web: {{image: nginx, {body}}}}}", **files).services["web"]

    def problems(self, text: str, keys: HostKeys | None = None, **files: str | bytes) -> list[str]:
        with pytest.raises(InvalidSpec) as caught:
            self.load(text, keys, **files)
        return [str(problem).removeprefix(f"{FILE.parent}/") for problem in caught.value.problems]


def _name(name: str) -> str:
    return {"env": ".env"}.get(name, name.removeprefix("plain_"))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"))


def test_values_of_an_encrypted_env_file(host: Host) -> None:
    service = host.service("env_file: [a, b], environment: {C: plain, B: over}", a="A=1\nB=2\n", plain_b="D=4\n")
    assert service.environment == {"A": "1", "B": "over", "C": "plain", "D": "4"}
    assert service.hidden == ("A",), "what the file itself says over it is for all to see"
    contents = {name.rpartition("/")[2]: digest for name, digest in service.contents.items()}
    assert contents["a"].startswith(BLIND)
    assert contents["b"].startswith("sha256:")


def test_variables_of_an_encrypted_dot_env(host: Host) -> None:
    body = "environment: [TOKEN, 'URL=http://u:${TOKEN}@h', 'P=${PORT:-80}', Q], env_file: e"
    service = host.service(body, env=f"{ENV}Q='$x'\n", plain_e="FROM=${TOKEN}\nHOOK\nNEXT=$FROM\nREST=1\n")
    assert service.environment["URL"] == f"http://u:{SECRET}-t@h"
    assert service.environment["NEXT"] == f"{SECRET}-t"
    assert set(service.hidden) == {"TOKEN", "URL", "Q", "FROM", "HOOK", "NEXT"}
    assert set(service.environment) - set(service.hidden) == {"P", "REST"}


def test_the_agents_own_environment_wins_and_is_no_secret(host: Host) -> None:
    files = {".env": host.seal("A=1\nCOMPOSE_PROJECT_NAME=x\n")}
    app = load("services: {w: {image: 'a:$A', labels: {n: $COMPOSE_PROJECT_NAME}}}", files, {"A": "2"}, keys=host.keys)
    assert app.services["w"].image == "a:2"


def test_secrets_of_builds_and_webhooks(host: Host) -> None:
    text = """
        services: {web: {build: {context: ., secrets: [a, b]}}}
        secrets: {a: {file: ./pass}, b: {environment: TOKEN}}
        x-holdfast: {notify: [{webhook: "https://h/$HOOK", secret_file: ./sign}]}
    """
    app = host.load(text, pass_=b"", sign="key", plain_Dockerfile="FROM a", **{"pass": SECRET, "env": ENV})
    build = app.services["web"].build
    assert build is not None
    assert [secret.value for secret in build.secrets.values()] == ["aHVudGVyMg==", "aHVudGVyMi10"]
    assert app.notify[0].url == f"https://h/{SECRET}-h"
    assert app.notify[0].blind == host.keys.blind(app.notify[0].url.encode())
    named = app.notify[0].model_copy(update={"url": "https://h/guess"})
    assert Receiver(named).name == Receiver(app.notify[0]).name, "the url is not in what is logged"
    assert app.notify[0].secret == "a2V5"


@pytest.mark.parametrize("line", ["MIIEvg+/hunter2", "hunter2/Zm9v==", "'hunter2 x'=1"])
def test_a_piece_of_a_value_is_not_taken_for_a_name(host: Host, line: str) -> None:
    (found,) = host.problems("services: {w: {image: a, env_file: e}}", e=f"KEY=-----BEGIN\n{line}\nB=1\n")
    assert found.startswith("e:2:1: not a line of the form NAME=value")
    assert SECRET not in found
    assert host.service("env_file: e", e=f'KEY="-----BEGIN\n{line}\n"\n').hidden == ("KEY",)


@pytest.mark.parametrize("item", ["$TOKEN", "${TOKEN}=x", "A${TOKEN}=x", "${NO:-A}=$TOKEN", "${TOKEN:+A}=x"])
def test_no_value_becomes_a_name(host: Host, item: str) -> None:
    (found,) = host.problems(f"services: {{web: {{image: nginx, environment: ['{item}']}}}}", env=ENV)
    assert "names are shown" in found
    assert SECRET not in found


@pytest.mark.parametrize(
    "body",
    [
        "image: 'a:$TOKEN'",
        "command: [a, '$TOKEN']",
        "command: 'a $TOKEN'",
        "labels: {a: $TOKEN}",
        "labels: ['a=$TOKEN']",
        "env_file: $TOKEN",
        "user: $TOKEN",
        "ports: ['$TOKEN:80']",
        "volumes: ['./$TOKEN:/x']",
        "healthcheck: {test: [CMD, '${TOKEN:+x}']}",
        "build: {context: ., args: {A: $TOKEN}}",
        "build: {context: ., args: [TOKEN]}",
        "build: {context: $TOKEN}",
        "x-holdfast: {probes: {readiness: {http: {port: 80, headers: {A: $TOKEN}}}}}",
        "labels: &a {a: $TOKEN}, environment: *a",
        "environment: &a {a: $TOKEN}, labels: *a",
    ],
)
def test_a_variable_is_refused_where_its_value_would_be_shown(host: Host, body: str) -> None:
    image = "" if "image" in body or "build" in body else "image: nginx, "
    found = host.problems(f"services: {{web: {{{image}{body}}}}}", env=ENV, plain_Dockerfile="FROM a")
    assert any("has a variable of the encrypted .env file, whose value would be shown here" in text for text in found)
    assert not any(SECRET in text for text in found)


def test_a_compose_file_is_not_encrypted(host: Host) -> None:
    with pytest.raises(InvalidSpec, match="is encrypted: of a Compose file only what it names may be"):
        load(host.seal("services: {}"), keys=host.keys)


def test_without_keys_nothing_is_taken(host: Host) -> None:
    with pytest.raises(InvalidSpec, match=r"e:1:1: is encrypted, and cannot be used here"):
        load("services: {web: {image: a, env_file: e}}", {"e": host.seal("A=1")})


def test_all_errors_come_at_once_and_each_once(host: Host, tmp_path: Path) -> None:
    text = "services: {a: &a {image: x, env_file: e, environment: {A: '${A:?}'}, prots: []}, b: *a}"
    found = host.problems(text, HostKeys(tmp_path / "none"), e="A=1", env="B=1")
    assert [line.partition(" ")[0] for line in found] == [".env:1:1:", *["compose.yaml:1:70:"] * 2, "e:1:1:"]
    assert "there is no identity file" in found[0]
    assert "prots" in found[1]


def test_where_nobody_has_the_key_it_is_a_warning(host: Host, tmp_path: Path) -> None:
    keys = HostKeys(tmp_path / "none", required=False)
    text = """
        services:
          web: {image: a, env_file: e, environment: {A: '${TOKEN:?}', B: $HOOK}, build: {context: ., secrets: [s]}}
        secrets: {s: {environment: S}}
    """
    host.load(text, keys, e="A=1", env=ENV, plain_Dockerfile="FROM a")
    assert [(Path(found.file).name, found.line) for found in host.warnings] == [(".env", 1), ("e", 1)]
    assert "what is in it was not checked" in host.warnings[0].message
    found = host.problems("services: {web: {image: 'a:$TAG', env_file: e}}", keys, e=b"A=1", env=ENV)
    assert "TAG is not set" in found[0], "a variable of that file could not stand there either"


@pytest.mark.parametrize(
    ("clear", "message"),
    [
        (f"A=1\nno line {SECRET}\n", ":2:1: not a line of the form NAME=value"),
        (f"A=1\n\nB={SECRET}${{{SECRET}\n", ":3:1: B: its value has a $ that begins no variable that can be resolved"),
        (f"A=${{{SECRET}:?{SECRET}}}\n", ":1:1: A: its value has a $"),
        (f"A={SECRET}\nB=1\x01", ":2:4: a control character: only text"),
        (f"A={SECRET}\n".encode() + b"\xff", ":2:1: a byte is not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["e", "env"])
def test_errors_in_the_clear_text_name_its_line(host: Host, name: str, clear: str | bytes, message: str) -> None:
    (found,) = host.problems("services: {web: {image: a, env_file: {path: e, required: false}}}", **{name: clear})
    assert found.startswith(_name(name) + message)
    assert SECRET not in found


@given(st.lists(st.sampled_from([SECRET, "A", "B", "=", "$", "{", "}", ":?", "'", '"', "\n", "\\", "#", " ", "\0"])))
def test_no_message_shows_a_value(host: Host, pieces: list[str]) -> None:
    clear = f"NAME={SECRET}" + "".join(pieces)
    text = "services: {web: {image: a, env_file: e, environment: {C: $NAME}, labels: {d: '$A$NAME'}}}"
    try:
        app = host.load(text, e=clear, env=clear)
    except InvalidSpec as error:
        shown = [problem.message for problem in error.problems]
    else:
        shown = [repr(app.services["web"])]
    named = {line.partition("=")[0].strip() for line in clear.splitlines()}
    for message in [*shown, *(found.message for found in host.warnings)]:
        assert SECRET not in message or any(SECRET in name and name in message for name in named)


def desired(app: App) -> DesiredApp:
    return DesiredApp(app, "r")


TEXT = "services: {web: {image: a, env_file: e, environment: {T: $TOKEN}, labels: {v: '%s'}}}"


def test_the_clear_content_decides_and_digests_tell_nothing(host: Host, tmp_path: Path) -> None:
    def digests(text: str, keys: HostKeys, **files: str) -> tuple[str, dict[str, str]]:
        made = desired(host.load(text, keys, **files))
        return made.content, made.digests({made.image_keys["web"]: ImageState("sha256:1", current=True)})

    same = digests(TEXT % 1, host.keys, e="A=1", env=ENV)
    assert same == digests(TEXT % 1, HostKeys(host.path, b"secret of the host"), e="A=1", env=ENV)
    assert same != digests(TEXT % 1, host.keys, e="A=2", env=ENV)
    assert same != digests(TEXT % 1, host.keys, e="A=1", env="TOKEN=other")
    only = "services: {web: {image: a, environment: {T: $TOKEN}}}"
    here, there = (digests(only, keys, env=ENV) for keys in (host.keys, HostKeys(host.path, b"another host")))
    assert here[0] != there[0], "nobody can compute the name of a revision from a guess at its secrets"
    assert here[1] != there[1]


def test_changes_are_told_without_their_values(host: Host) -> None:
    old = host.load(TEXT % 1, e=f"A={SECRET}1", env=f"TOKEN={SECRET}a")
    new = host.load(TEXT % 2, plain_e="A=plain", env=f"TOKEN={SECRET}b")
    documents = [desired(app).document("web", "sha256:1") for app in (old, new)]
    for pair in (documents, documents[::-1]):
        changes = {change.path: (change.old, change.new) for change in compute_changes(*pair)}
        assert changes.pop("labels.v") in (('"1"', '"2"'), ('"2"', '"1"'))
        assert set(changes) == {"environment.A", "environment.T", f"contents.{FILE.parent}/e"}
        assert set(changes.values()) == {('"***"', '"***"')}
    revisions = [AppRevision("sha256:1", desired(app), {"a": "sha256:1"}) for app in (old, new)]
    found: dict[str, Any] = {}
    for change in compare_revisions(*(_with_images(revision) for revision in revisions)):
        found[change["path"]] = (change["old"], change["new"])
    assert found["environment.A"] == found["environment.T"] == ("***", "***")
    assert found["labels.v"] == ('"1"', '"2"')
    assert SECRET not in json.dumps(found)
    assert BLIND not in json.dumps(found)


def _with_images(revision: AppRevision) -> AppRevision:
    key = revision.desired.image_keys["web"]
    return AppRevision(revision.id, revision.desired, {key: "sha256:1"})


def test_a_written_app_is_read_again(host: Host) -> None:
    app = host.load(TEXT % 1, e="A=1", env=ENV)
    assert App.model_validate(json.loads(json.dumps(app.model_dump(mode="json")))) == app
    assert app.salt
    assert app.salt not in repr(app)
    assert host.load("services: {web: {image: a}}").salt == ""
