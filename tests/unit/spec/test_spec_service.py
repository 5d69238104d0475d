from __future__ import annotations

import pytest
from spec_loading import load, problems_of, service, service_problems

from agent.spec.digest import service_digest
from agent.spec.model import App, Dependency, Healthcheck, RestartPolicy

EVERYTHING = """
name: shop
images:
  - busybox
  - {name: "alpine:3", pull_policy: always}
  - reference: debian
    pull_policy: if_not_present
networks:
  front: {driver: bridge, internal: true, labels: [a=b]}
  back:
    name: shared-back
volumes:
  data: {name: shop-data, driver: local, labels: {keep: yes}}
x-anything: [1]
services:
  web:
    image: registry.example:5000/shop/web:1
    command: serve --port 80 "two words"
    entrypoint: [/bin/entry, "--"]
    environment: {A: 1, B: "", C: true}
    ports: ["8080:80"]
    volumes: ["data:/data", "/etc/ssl:/ssl:ro"]
    deploy:
      replicas: 3
      resources: {limits: {cpus: "0.5", memory: 64M, pids: 100}}
      restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 2m}
    depends_on:
      db: {condition: service_healthy, restart: true}
    healthcheck: {test: [CMD, /check], interval: 5s, timeout: 1s, start_period: 2s, start_interval: 500ms, retries: 4}
    user: "1000:1000"
    working_dir: /srv
    hostname: web.local
    labels: {com.example.x: 1, empty: }
    stop_signal: SIGQUIT
    stop_grace_period: 1m30s
    cap_add: [NET_ADMIN, CAP_SYS_TIME]
    cap_drop: [all]
    read_only: true
    tmpfs: /run
    shm_size: 128m
    ulimits: {nofile: {soft: 1024, hard: 2048}, nproc: 65535, core: -1}
    init: true
    sysctls: [net.core.somaxconn=1024, net.ipv4.ip_unprivileged_port_start=0]
    security_opt: ["no-new-privileges:true", seccomp=unconfined]
    pull_policy: always
    networks: {front: {aliases: [www]}, back: }
  db:
    image: postgres
    x-note: free
"""


def test_everything_at_once() -> None:
    app = load(EVERYTHING)
    assert (app.name, app.file) == ("shop", "/srv/state/shop/compose.yaml")
    assert [(image.reference, image.pull_policy) for image in app.images] == [
        ("busybox", "missing"),
        ("alpine:3", "always"),
        ("debian", "missing"),
    ]
    assert (app.networks["front"].name, app.networks["front"].internal) == ("shop_front", True)
    assert app.networks["front"].labels == {"a": "b"}
    assert app.networks["back"].name == "shared-back"
    assert app.networks["default"].name == "shop_default"
    assert (app.volumes["data"].name, app.volumes["data"].labels) == ("shop-data", {"keep": "yes"})
    web = app.services["web"]
    assert web.image == "registry.example:5000/shop/web:1"
    assert web.command == ("serve", "--port", "80", "two words")
    assert web.entrypoint == ("/bin/entry", "--")
    assert web.environment == {"A": "1", "B": "", "C": "true"}
    assert (web.replicas, web.cpus, web.memory, web.pids) == (3, 0.5, 64 << 20, 100)
    assert web.restart == RestartPolicy(condition="on-failure", delay=5, max_attempts=3, window=120)
    assert web.depends_on == {"db": Dependency(condition="service_healthy", restart=True)}
    assert web.healthcheck == Healthcheck(
        test=("CMD", "/check"), interval=5, timeout=1, start_period=2, start_interval=0.5, retries=4
    )
    assert (web.user, web.working_dir, web.hostname) == ("1000:1000", "/srv", "web.local")
    assert web.labels == {"com.example.x": "1", "empty": ""}
    assert (web.stop_signal, web.stop_grace_period) == ("SIGQUIT", 90)
    assert (web.cap_add, web.cap_drop) == (("CAP_NET_ADMIN", "CAP_SYS_TIME"), ("ALL",))
    assert (web.read_only, web.init, web.no_new_privileges, web.seccomp) == (True, True, True, "unconfined")
    assert web.shm_size == 128 << 20
    assert web.ulimits == (("nofile", 1024, 2048), ("nproc", 65535, 65535), ("core", -1, -1))
    assert web.sysctls == {"net.core.somaxconn": "1024", "net.ipv4.ip_unprivileged_port_start": "0"}
    assert web.pull_policy == "always"
    assert web.networks == {"front": ("www",), "back": ()}
    assert app.services["db"].networks == {"default": ()}
    assert App.model_validate(app.model_dump(mode="json")) == app


def test_what_is_not_said_is_left_to_the_image_and_the_runtime() -> None:
    plain = service("")
    assert (plain.command, plain.entrypoint, plain.user, plain.working_dir) == (None, None, None, None)
    assert (plain.stop_signal, plain.healthcheck, plain.memory, plain.cpus, plain.pids) == (None,) * 5
    assert (plain.replicas, plain.restart.condition, plain.pull_policy) == (1, "any", "missing")
    assert (plain.shm_size, plain.stop_grace_period, plain.seccomp) == (64 << 20, 10.0, "default")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("command: ", None),
        ("command: []", ()),
        ('command: ""', ()),
        ("command: echo 'a b' c\\ d", ("echo", "a b", "c d")),
        ("command: [echo, $$HOME, '${NOTHING:-x}']", ("echo", "$HOME", "x")),
        ("command: [a, 1, true]", ("a", "1", "true")),
    ],
)
def test_commands(written: str, expected: tuple[str, ...] | None) -> None:
    assert service(written).command == expected


def test_a_quotation_mark_that_is_not_closed() -> None:
    assert service_problems("command: echo 'x") == ["1:14: services.web.command: a quotation mark is not closed"]


@pytest.mark.parametrize(
    ("written", "condition", "attempts"),
    [
        ("no", "none", None),
        ('"no"', "none", None),
        ("always", "any", None),
        ("unless-stopped", "any", None),
        ("on-failure", "on-failure", None),
        ("on-failure:3", "on-failure", 3),
    ],
)
def test_restart(written: str, condition: str, attempts: int | None) -> None:
    policy = service(f"restart: {written}").restart
    assert (policy.condition, policy.max_attempts) == (condition, attempts)


def test_the_deploy_policy_wins_over_restart() -> None:
    assert service("restart: no\ndeploy: {restart_policy: {condition: any}}").restart.condition == "any"


def test_restart_that_is_none() -> None:
    assert service_problems("restart: sometimes") == [
        "1:14: services.web.restart: 'sometimes' is none of no, always, unless-stopped, on-failure[:N]"
    ]


def test_scale_and_replicas() -> None:
    assert service("scale: 4").replicas == 4
    assert service("scale: 0").replicas == 0
    assert service("scale: 2\ndeploy: {replicas: 2}").replicas == 2
    assert service_problems("scale: 2\ndeploy: {replicas: 3}") == [
        "2:24: services.web.deploy.replicas: contradicts services.web.scale: set only one of them"
    ]
    assert "an integer from 0 to 10000" in service_problems("scale: 99999")[0]


def test_no_limit_is_written_as_zero_or_minus_one() -> None:
    limited = service("deploy: {resources: {limits: {cpus: 0, memory: 0, pids: -1}}}")
    assert (limited.cpus, limited.memory, limited.pids) == (None, None, None)


def test_dependencies_in_short_form() -> None:
    app = load("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x}\n")
    assert app.services["a"].depends_on == {"b": Dependency()}


def test_probes_say_how_a_service_is_whose_healthcheck_is_disabled() -> None:
    app = load(
        """\
        services:
          a: {image: x, depends_on: {b: {condition: service_healthy}}}
          b:
            image: x
            healthcheck: {disable: true}
            x-holdfast: {probes: {readiness: {tcp: {port: 80}}}}
        """
    )
    assert app.services["a"].depends_on["b"].condition == "service_healthy"


def test_dependencies_that_cannot_be() -> None:
    assert problems_of(
        """\
        services:
          a: {image: x, depends_on: [nobody]}
          b: {image: x, depends_on: {c: {condition: service_healthy}, gone: {condition: service_started, required: no}}}
          c:
            image: x
            healthcheck: {disable: true}
            depends_on: {d: {condition: service_ended}}
          d: {image: x, depends_on: [b]}
          e: {image: x, depends_on: [e]}
        """
    ) == [
        "2:30: services.a.depends_on: there is no service 'nobody'",
        "3:30: services.b.depends_on: the healthcheck of c is disabled, it never gets healthy",
        "7:33: services.c.depends_on.d.condition: 'service_ended' is none of service_completed_successfully,"
        " service_healthy, service_started",
        "8:30: services.d.depends_on: a circle, b depends on d too",
        "9:30: services.e.depends_on: a circle, e depends on e too",
    ]


@pytest.mark.parametrize(
    ("written", "test"),
    [
        ("test: curl -f localhost || exit 1", ("CMD-SHELL", "curl -f localhost || exit 1")),
        ("test: [CMD-SHELL, 'exit 0']", ("CMD-SHELL", "exit 0")),
        ("test: [CMD, /bin/true]", ("CMD", "/bin/true")),
        ("test: [NONE]", ("NONE",)),
        ("interval: 3s", ()),
    ],
)
def test_healthcheck_forms(written: str, test: tuple[str, ...]) -> None:
    check = service(f"healthcheck:\n  {written}").healthcheck
    assert check is not None
    assert check.test == test
    assert check.disable == (test == ("NONE",))


@pytest.mark.parametrize("written", ["[]", "[curl]", "[NONE, x]", "[CMD]", "[CMD-SHELL, a, b]"])
def test_healthchecks_that_are_none(written: str) -> None:
    (problem,) = service_problems(f"healthcheck: {{test: {written}}}")
    assert "services.web.healthcheck.test" in problem


def test_networks() -> None:
    assert service("networks: [front, back]").networks == {"front": (), "back": ()}
    assert service("networks: {front: {aliases: [a, b, a]}}").networks == {"front": ("a", "b")}
    assert service("networks: ").networks == {"default": ()}
    assert service_problems("networks: [fornt]") == [
        "1:16: services.web.networks: the network 'fornt' is not declared: add it to the networks at the top level"
    ]


def test_neither_image_nor_build() -> None:
    assert problems_of("services:\n  web: {user: x}\n") == ["2:3: services.web: needs an image or a build"]


def test_references_are_checked() -> None:
    (problem,) = problems_of("services: {web: {image: 'a/UPPER'}}")
    assert problem.startswith("1:25: services.web.image: 'a/UPPER' is not an image reference")


def test_names() -> None:
    found = problems_of("name: Shop\nservices:\n  'a b': {image: x}\n")
    assert [problem.partition(" is no name")[0] for problem in found] == ["1:7: name: 'Shop'", "3:3: services: 'a b'"]


def test_the_name_of_the_app_is_that_of_its_place() -> None:
    from pathlib import Path

    text = "services: {web: {image: x}}"
    assert load(text, path=Path("/srv/state/My.App/compose.yaml")).name == "myapp"
    assert load(text, path=Path("/srv/state/Web-Site.yaml")).name == "web-site"
    assert load(text, path=Path("/srv/state/compose.yaml")).name == "compose"
    assert load("name: ${WHO:-me}\n" + text, path=Path("/srv/state/x.yaml")).name == "me"
    assert load("name: me\nservices: {web: {image: 'x/$COMPOSE_PROJECT_NAME'}}").services["web"].image == "x/me"


@pytest.mark.parametrize("text", ["", "   \n", "# nothing\n", "---\n", "null\n", "{}", "services: {}", "x-a: 1"])
def test_nothing_in_a_file_is_a_problem(text: str) -> None:
    (problem,) = problems_of(text)
    assert "needs services:, or images: to keep pulled" in problem


def test_images_alone_make_an_app() -> None:
    assert load("images: [busybox]").services == {}


def test_all_problems_come_at_once_in_file_order() -> None:
    assert problems_of(
        """\
        services:
          web:
            imagee: nginx
            ports: ["99999:80"]
            restart: maybe
            deploy:
              placement: {}
          db:
            image: postgres
            stop_grace_period: soon
        volums: {}
        """
    ) == [
        "2:3: services.web: needs an image or a build",
        "3:5: services.web.imagee: unknown key; the nearest known one is 'image'",
        "4:13: services.web.ports[0]: '99999:80': ports are numbers from 1 to 65535, ranges go upwards",
        "5:14: services.web.restart: 'maybe' is none of no, always, unless-stopped, on-failure[:N]",
        "7:7: services.web.deploy.placement is not supported yet",
        "10:24: services.db.stop_grace_period: 'soon' is not a duration such as 10s or 1m30s",
        "11:1: volums: unknown key; the nearest known one is 'volumes'",
    ]


@pytest.mark.parametrize(
    "body",
    [
        "user: 'a b'",
        "working_dir: relative",
        "hostname: -x",
        "stop_signal: SIGNOTHING",
        "stop_signal: 65",
        "cap_add: [NOT_ONE]",
        "cap_add: SYS_TIME",
        "read_only: maybe",
        "shm_size: big",
        "ulimits: {nofile: lots}",
        "ulimits: {nofile: {soft: 2, hard: 1}}",
        "ulimits: {nofile: {soft: 2}}",
        "ulimits: {files: 2}",
        "init: 2",
        "labels: word",
        "pull_policy: sometimes",
        "pull_policy: build",
        "pull_policy: refresh",
        "pull_policy: every_",
        "pull_policy: every_0s",
        "pull_policy: every_5",
        "pull_policy: every_999999999w",
        "pull_policy: hourly",
        "platform: linux",
        "environment: [=x]",
        "healthcheck: {interval: 5}",
        "healthcheck: {interval: 1us}",
        "deploy: {resources: {limits: {cpus: many}}}",
        "deploy: {resources: {reservations: {cpus: 1}}}",
        "deploy: {resources: {reservations: {memory: much}}}",
        "deploy: {resources: {limits: {memory: 64M}, reservations: {memory: 65M}}}",
        "command: {a: b}",
        "image: [a]",
        "depends_on: {web: {condition: service_started}}",
        "networks: 5",
    ],
)
def test_each_wrong_value_is_one_problem_at_its_line(body: str) -> None:
    body = body if not body.startswith("image") else "user: [a]"
    (problem,) = service_problems(body)
    assert problem.startswith("1:")
    assert "services.web" in problem


def test_platform() -> None:
    build = "{build: {dockerfile_inline: FROM x}, image: y, platform: linux/arm64/v8}"
    app = load(f"services:\n  a: {{image: x, platform: linux/x86_64}}\n  b: {build}\n")
    assert app.services["a"].platform == "linux/amd64"
    assert app.services["b"].build is not None
    assert app.services["b"].build.platforms == ("linux/arm64/v8",)
    other = app.services["a"].model_copy(update={"platform": "linux/arm64"})
    digests = {service_digest(service, image_id="i", contents={}) for service in (app.services["a"], other)}
    assert len(digests) == 1, "it decides which image; the image counts"


@pytest.mark.parametrize(
    ("policy", "known"),
    [
        ("daily", "every_86400s"),
        ("weekly", "every_604800s"),
        ("every_1w2d3h4m5s", "every_788645s"),
        ("every_90m", "every_5400s"),
        ("if_not_present", "missing"),
        ("never", "never"),
    ],
)
def test_pull_policies(policy: str, known: str) -> None:
    app = load(
        f"services: {{web: {{image: a, pull_policy: {policy}}}}}\nimages: [{{name: b, pull_policy: {policy}}}]\n"
    )
    assert (app.services["web"].pull_policy, app.images[0].pull_policy) == (known, known)


def test_an_image_that_could_be_built_may_be_taken() -> None:
    files = {"Dockerfile": b"FROM scratch"}
    for policy, known in (("always", "always"), ("if_not_present", "missing"), ("never", "never"), ("build", "")):
        app = load(
            f"services: {{web: {{image: a, build: ., pull_policy: {policy}}}}}\n", {"Dockerfile": b"FROM scratch"}
        )
        assert app.services["web"].build is not None
        assert app.services["web"].build.unless == known
    (problem,) = problems_of("services: {web: {build: ., pull_policy: always}}", files)
    assert "give it one with image:" in problem


@pytest.mark.parametrize("what", ["build: .", "image: 'oci:/srv/web'"])
def test_only_images_of_registries_are_looked_up_again(what: str) -> None:
    problems = problems_of(f"services: {{web: {{{what}, pull_policy: daily}}}}")
    assert any("only an image of a registry is looked up again" in problem for problem in problems)
