"""What an app reads beside its file: .env, env_file, build contexts, seccomp profiles; and what it must not read."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from spec_loading import load, problems_of, service, service_problems, warnings_of

from agent.controller.buildconfig import compute_fields
from agent.engine.model import BuildConfig, SecretSource

PROFILE = '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}'


def test_dot_env_gives_defaults_and_the_environment_wins() -> None:
    text = "services: {web: {image: 'x:$TAG', user: '${WHO}'}}"
    web = load(text, {".env": "TAG=1\nWHO=file\nWHO2=${WHO}\n"}, {"WHO": "outer"}).services["web"]
    assert (web.image, web.user) == ("x:1", "outer")


def test_dot_env_with_an_error_names_its_own_line() -> None:
    found = problems_of("services: {web: {image: x}}", {".env": "A=1\n= 2\nB=${C:?needed}\n"})
    assert found == [".env:2:1: not a line of the form NAME=value", ".env:3:1: B: the variable C is not set: needed"]


def test_env_files_come_in_order_and_environment_wins() -> None:
    web = service(
        "env_file: [a.env, {path: b.env}, {path: c.env, required: false}]\nenvironment: {THREE: 'last'}",
        {"a.env": "ONE=1\nTWO=1\nTHREE=1\n", "b.env": "export TWO='2 $X'\nFOUR=\"a\\nb\" # note\nFIVE=${ONE}\nSIX\n"},
        {"SIX": "six", "ONE": "outer"},
    )
    assert web.environment == {
        "ONE": "1",
        "TWO": "2 $X",
        "THREE": "last",
        "FOUR": "a\nb",
        "FIVE": "outer",
        "SIX": "six",
    }
    assert web.contents["/srv/state/shop/a.env"] == "sha256:" + hashlib.sha256(b"ONE=1\nTWO=1\nTHREE=1\n").hexdigest()


def test_a_name_alone_takes_the_value_of_the_variable_or_is_left_out() -> None:
    assert service("environment: [A, B, C=]", None, {"A": "a"}).environment == {"A": "a", "C": ""}
    assert service("environment: {A: , B: ~, C: ''}", None, {"A": "a"}).environment == {"A": "a", "C": ""}


@pytest.mark.parametrize(
    "path", ["../../outside.env", "/etc/passwd", "~/x.env", "../../../../../etc/shadow", "a/../../../x"]
)
def test_an_env_file_outside_is_refused_by_name(path: str) -> None:
    (problem,) = service_problems(f"env_file: {path}")
    assert problem.startswith("1:15: services.web.env_file: /")
    assert problem.endswith(" is outside of the state directory /srv/state")


def test_an_env_file_beside_another_app_is_fine() -> None:
    assert service("env_file: ../common.env", {"../common.env": "A=1"}).environment == {"A": "1"}
    assert service_problems("env_file: gone.env") == [
        "1:15: services.web.env_file: /srv/state/shop/gone.env does not exist"
    ]


def test_what_a_variable_held_is_in_no_message() -> None:
    secret = "hunter2-hunter2"
    body = """
    env_file: $SECRET
    environment: {A: "${MISSING:?say $SECRET}"}
    user: "$SECRET b"
    ports: ["$SECRET", "${SECRET}:80"]
    volumes: ["$SECRET:/x", {type: $SECRET, target: /y}]
    hostname: -$SECRET
    security_opt: ["seccomp=$SECRET", $SECRET]
    sysctls: ["$SECRET=1"]
    deploy: {resources: {limits: {memory: $SECRET}}}
    stop_signal: $SECRET
    cap_add: [$SECRET]
    depends_on: [$SECRET]
    networks: [$SECRET]
    pull_policy: $SECRET
    healthcheck: {test: [$SECRET]}
    build: {context: "./$SECRET", dockerfile: $SECRET, additional_contexts: {x: ./$SECRET}}
    """
    found = service_problems(body, None, {"SECRET": secret})
    assert len(found) >= 18
    assert secret not in "\n".join(found)


def test_the_values_of_environments_are_in_no_message() -> None:
    found = service_problems(
        "environment: {'A=B': hunter2}\nlabels: [=hunter2]\nenv_file: x.env",
        {"x.env": "hunter2 hunter2\nA=${x:hunter2}\n"},
    )
    assert found
    assert "hunter2" not in "\n".join(found)


BUILD = "services: {web: {build: BUILD}}"


def build_problems(build: str, files: dict[str, str] | None = None) -> list[str]:
    return problems_of(BUILD.replace("BUILD", build), files)


def test_a_build_in_short_and_long_form() -> None:
    build = load(BUILD.replace("BUILD", "./src"), {"src/Dockerfile": ""}).services["web"].build
    assert build is not None
    assert (build.context, build.dockerfile) == ("/srv/state/shop/src", "Dockerfile")
    text = """\
    services:
      web:
        build:
          context: .
          dockerfile: Dockerfile.example
          args: {A: 1, B: , C: $D}
          target: final
          additional_contexts:
            host: /usr/bin
            other: ./src
    """
    web = load(text, {"Dockerfile.example": "", "src/x": ""}, {"B": "b", "D": "d"}).services["web"]
    build = web.build
    assert build is not None
    assert (build.context, build.dockerfile, build.target) == ("/srv/state/shop", "Dockerfile.example", "final")
    assert build.args == {"A": "1", "B": "b", "C": "d"}
    assert build.additional_contexts == {"host": "/usr/bin", "other": "/srv/state/shop/src"}


def test_additional_contexts_as_a_list() -> None:
    text = BUILD.replace("BUILD", "{context: ., additional_contexts: ['host=/usr', here=.]}")
    build = load(text, {"Dockerfile": ""}).services["web"].build
    assert build is not None
    assert build.additional_contexts == {"host": "/usr", "here": "/srv/state/shop"}


def test_a_build_that_says_everything() -> None:
    text = """
    secrets:
      file: {file: token}
      far: {file: /etc/holdfast/token}
      variable: {environment: SECRET}
    services:
      web:
        build:
          context: git@github.com:a/b.git#v1:web
          dockerfile_inline: |
            FROM scratch
            LABEL a=$$b
          additional_contexts: {r: "https://h/x.git", i: "docker-image://alpine"}
          tags: ["a:1", h.example/b]
          labels: [x=y]
          platforms: [linux/amd64]
          no_cache: true
          pull: "true"
          privileged: false
          provenance: false
          isolation: default
          cache_from: ["type=local,src=/var/cache/b/", alpine, "type=registry,ref=h.example/b:1"]
          cache_to: ["type=local,dest=/var/cache/b,mode=max"]
          network: none
          extra_hosts: ["a=10.0.0.1", "b:10.0.0.2", "c=[::1]"]
          shm_size: 128m
          ulimits: {nofile: 64}
          secrets: [file, {source: far, target: id}, {source: variable}]
          ssh: [default=/run/agent.sock]
    """
    build = load(text, {"token": b"\xff\x00secret"}, {"SECRET": "hidden"}).services["web"].build
    assert build is not None and "secret" not in repr(build.secrets["file"]) and "hidden" not in repr(build)
    config = dataclasses.replace(BuildConfig("", "x:1"), **compute_fields(build))
    assert config == BuildConfig(
        context="git@github.com:a/b.git#v1:web",
        tag="x:1",
        dockerfile="services.web.build.dockerfile_inline",
        dockerfile_inline="FROM scratch\nLABEL a=$b\n",
        args={},
        additional_contexts={"r": "https://h/x.git", "i": "docker-image://docker.io/library/alpine:latest"},
        tags=("a:1", "h.example/b"),
        labels={"x": "y"},
        platforms=("linux/amd64",),
        no_cache=True,
        pull=True,
        cache_from=("/var/cache/b", "docker.io/library/alpine:latest", "h.example/b:1"),
        cache_to="/var/cache/b",
        network="none",
        extra_hosts=(("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "::1")),
        shm_size=128 << 20,
        ulimits=(("nofile", 64, 64),),
        secrets={
            "file": SecretSource(value=b"\xff\x00secret"),
            "id": SecretSource(file="/etc/holdfast/token"),
            "variable": SecretSource(value=b"hidden"),
        },
        ssh={"default": "/run/agent.sock"},
    )


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("{file: nothing}", "secrets.s.file: /srv/state/shop/nothing does not exist"),
        ("{file: ../../etc/x}", "/srv/etc/x is outside of the state directory"),
        ("{environment: NOTHING}", "the variable NOTHING is not set"),
        ("{file: a, environment: b}", "must say either file or environment"),
        ("{external: true}", "secrets.s.external is not supported yet"),
    ],
)
def test_secrets_that_are_refused(secret: str, said: str) -> None:
    found = problems_of(f"secrets: {{s: {secret}}}\nservices: {{web: {{image: a}}}}\n")
    assert any(said in problem for problem in found)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ("../../elsewhere", "/srv/elsewhere is outside of the state directory"),
        ("/etc", "/etc is outside of the state directory"),
        ("{context: ./gone}", "/srv/state/shop/gone: there is no such directory"),
        ("{context: src, dockerfile: ../Dockerfile}", "is outside of its context"),
        ("{context: src, dockerfile: /etc/passwd}", "/etc/passwd is outside of its context"),
        ("{context: src, dockerfile: Other}", "/srv/state/shop/src/Other does not exist"),
        ("{context: src, additional_contexts: {a: ../../../etc}}", "/etc is outside of the state directory"),
        ("{context: src, additional_contexts: {a: /srv/state/nowhere}}", "there is no such directory"),
        ("{context: src, additional_contexts: {a: 'docker-image://X'}}", "not an image reference"),
        (
            "{context: src, additional_contexts: {a: 'service:b'}}",
            "only directories, git repositories and",
        ),
        ("{context: src, additional_contexts: {a: }}", "must be NAME=DIRECTORY"),
        ("https://github.com/a/b", "build: 'https://github.com/a/b' does not end in .git"),
        ("https://u:p@github.com/a.git", "a git URL must not hold a password"),
        ("https://github.com/a.git#main:../x", "leads out of the repository"),
        ("{context: https://h/a.git, dockerfile: ../x}", "../x is outside of the repository"),
        ("docker-image://x", "only directories and git repositories can be contexts"),
        ("{context: src, dockerfile: a, dockerfile_inline: FROM x}", "set only one of them"),
        ("{context: src, privileged: true}", "privileged: steps of a build never run with more rights"),
        ("{context: src, isolation: hyperv}", "isolation: only default"),
        ("{context: src, entitlements: [network.host]}", "entitlements is not supported yet (builds get no rights"),
        ("{context: src, sbom: true}", "sbom: attestations are not made"),
        ("{context: src, network: web}", "'web' is none of default, host, none"),
        ("{context: src, tags: [A]}", "tags: 'A' is no name for an image"),
        ("{context: src, platforms: [linux]}", "platforms: 'linux' is no platform"),
        ("{context: src, cache_from: [Img]}", "'Img' is no image"),
        ("{context: src, cache_from: ['type=registry,ref=a,mode=max']}", "is no image: IMAGE, or type=registry"),
        ("{context: src, cache_from: ['type=gha']}", "only IMAGE, type=registry,ref=IMAGE and type=local,src="),
        ("{context: src, cache_to: ['type=registry,ref=a']}", "only type=inline and type=local,dest=/DIRECTORY are"),
        ("{context: src, cache_to: ['type=local,dest=/x,mode=min']}", "only type=inline and type=local,dest=/DIR"),
        ("{context: src, cache_to: ['type=inline', 'type=inline']}", "or only type=inline"),
        ("{context: src, cache_to: ['type=local,dest=cache']}", "dest must be an absolute path outside"),
        ("{context: src, cache_to: ['type=local,dest=/srv/state/c']}", "dest must be an absolute path outside"),
        ("{context: src, cache_to: ['type=local,dest=/a', 'type=local,dest=/b']}", "only one directory"),
        ("{context: src, extra_hosts: ['a=host-gateway']}", "is not NAME=ADDRESS"),
        ("{context: src, ssh: [default]}", "ssh: must be ID=/PATH"),
        ("{context: src, ssh: default}", "ssh: must be a list or a mapping"),
        ("{context: src, secrets: [nothing]}", "secrets: there is no secret 'nothing'"),
        ("{context: src, secrets: {a: b}}", "secrets: must be a list"),
        ("{context: src, secrets: [{target: a}]}", "secrets[0].source: is missing"),
        ("[a]", "must be a directory or a mapping, not a list"),
    ],
)
def test_builds_that_are_refused(build: str, said: str) -> None:
    found = build_problems(build, {"src/Dockerfile": "", "Dockerfile": ""})
    assert any(said in problem for problem in found)
    assert found[0].startswith("1:")


def test_a_seccomp_profile_is_read_and_checked() -> None:
    web = service("security_opt: ['seccomp=p.json', no-new-privileges]", {"p.json": PROFILE})
    assert (web.seccomp, web.no_new_privileges) == (PROFILE, True)
    assert list(web.contents) == ["/srv/state/shop/p.json"]
    assert service("security_opt: ['seccomp:unconfined', 'no-new-privileges:false']").seccomp == "unconfined"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("seccomp=../../../etc/x.json", "/etc/x.json is outside of the state directory"),
        ("seccomp=bad.json", "/srv/state/shop/bad.json: is not JSON"),
        ("seccomp=deep.json", "is not JSON"),
        ("seccomp=list.json", "it has no defaultAction"),
        ("seccomp=gone.json", "does not exist"),
        ("apparmor=unconfined", "apparmor is not supported yet"),
        ("label:disable", "label is not supported yet"),
        ("secomp=unconfined", "the nearest known one is 'seccomp'"),
        ("no-new-privileges:perhaps", "is true or false"),
    ],
)
def test_security_options_that_are_refused(option: str, said: str) -> None:
    files = {"bad.json": "{", "deep.json": "[" * 200_000, "list.json": "[]"}
    (problem,) = service_problems(f"security_opt: ['{option}']", files)
    assert said in problem


@pytest.mark.parametrize(
    ("sysctl", "said"),
    [
        ("kernel.panic=1", "would change the host"),
        ("vm.swappiness=1", "would change the host"),
        ("net.ipv4.ip_forward", "has no value"),
        ("../../etc=1", "is not the name of a sysctl"),
        ("net.../x=1", "is not the name of a sysctl"),
    ],
)
def test_sysctls_of_the_host_are_refused(sysctl: str, said: str) -> None:
    (problem,) = service_problems(f"sysctls: ['{sysctl}']")
    assert said in problem


def test_many_services_with_one_large_env_file_end_soon() -> None:
    large = "".join(f"NAME{index}={'x' * 90}\n" for index in range(9000))
    services = "".join(f"  s{index}: {{image: x, env_file: large.env}}\n" for index in range(500))
    (problem,) = problems_of(f"services:\n{services}", {"large.env": large})
    assert "add up to more than 16 MiB" in problem


def test_variables_that_are_not_set_are_warned_of_where_they_stand() -> None:
    text = """\
    services:
      web:
        image: nginx:1${NOTHING}
        hostname: ${HERE}${ALSO_HERE-}${DEFAULT:-x}${OTHER:+y}
        command: [echo, $$x, "$NOTHING", '${HERE:-${INNER}}']
        env_file: a.env
      db: {image: "nginx:1${NOTHING}", environment: {PASSWORD: pa$word}}
    """
    env = "A=${GONE}\nB='${FINE}'\nC=${A}\n"
    stray = "a $ begins a variable that is not set, so nothing stands in its place; write $$ for a dollar sign"
    unset = "the variable {0} is not set, so nothing stands in its place; ${{{0}:-}} says that this is meant"
    assert warnings_of(text, {"a.env": env, ".env": "D=${E}\n"}, {"HERE": "x"}) == [
        f".env:1:1: D: {unset.format('E')}",
        f"a.env:1:1: A: {unset.format('GONE')}",
        f"3:12: services.web.image: {unset.format('NOTHING')}",
        f"5:26: services.web.command[2]: {stray}",
        f"7:15: services.db.image: {unset.format('NOTHING')}",
        f"7:60: services.db.environment.PASSWORD: {stray}",
    ]
