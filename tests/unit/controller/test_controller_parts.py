"""The pure parts of the loop: mapping, health, endpoints, conditions, targets, outcomes."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeImages
from loop_bench import make_app
from memory_source import Files, Revision

from agent.controller.apply import describe_stop
from agent.controller.containers import compute_config
from agent.controller.faults import REPEAT_LIMIT, Faults
from agent.controller.gate import Gate
from agent.controller.health.healthplan import HealthPlan, HealthRecord, compute_health_plan, compute_record
from agent.controller.images import AppImages, Resolved
from agent.controller.journal import Journal
from agent.controller.lastgood import LastGood
from agent.controller.outcome import LONGEST_RETRY, Failure, compute_failure
from agent.controller.slots import decode_history, encode_history
from agent.controller.targets import compute_targets
from agent.controller.telling.conditions import Condition, Findings, carry_over, compute_conditions
from agent.controller.traffic.endpoints import AppEndpoints, compute_published
from agent.engine.model import ExitStatus, MountConfig, MountKind, NetworkAttachment
from agent.errors import HoldfastError, NotFound, Problem, Stalled, Waiting
from agent.oci.imageconfig import ImageConfig
from agent.plan.actions import Cause, EnsureNetwork, Hold, Plan, StartContainer
from agent.plan.history import ContainerExit, SlotHistory
from agent.plan.observed import Health, ImageState
from agent.plan.wants import DesiredApp
from agent.store.database import Database


def start_action(desired: DesiredApp, service: str = "web") -> StartContainer:
    return StartContainer(
        id="start",
        cause=Cause("ServiceAdded", "it is new"),
        service=service,
        slot=2,
        name=f"{desired.name}-{service}-2",
        image="sha256:1",
        digest="sha256:d",
    )


def test_service_becomes_a_container_config() -> None:
    app = make_app(
        services={
            "web": {
                "environment": {"A": "1"},
                "memory": 64 << 20,
                "mounts": [
                    {"kind": "volume", "source": "data", "target": "/data", "read_only": True},
                    {"kind": "volume", "target": "/scratch"},
                    {"kind": "bind", "source": "/srv", "target": "/srv", "create_host_path": True},
                    {"kind": "tmpfs", "target": "/tmp", "size": 4096},
                ],
                "networks": {"back": ("api",), "default": ()},
                "labels": {"team": "blue"},
                "stop_grace_period": 3.0,
            }
        },
        networks={"back": {"name": "shared", "driver": "bridge", "internal": True, "labels": {}}},
        volumes={"data": {"name": "precious", "driver": "local", "labels": {}}},
    )
    config = compute_config(DesiredApp(app, "r7"), start_action(DesiredApp(app, "r7")))
    assert (config.name, config.hostname, config.image, config.image_name) == (
        "shop-web-2",
        "shop-web-2",
        "sha256:1",
        "example/web:1",
    )
    assert config.networks == (NetworkAttachment("shared", ("api",)), NetworkAttachment("shop_default"))
    volume, anonymous, bind, memory = config.mounts
    assert volume == MountConfig(MountKind.VOLUME, "/data", "precious", read_only=True)
    assert anonymous.source.startswith("shop-web-2_")
    assert (bind.source, bind.create_source) == ("/srv", True)
    assert (memory.kind, memory.source, memory.size) == (MountKind.TMPFS, "", 4096)
    assert config.resources.memory == 64 << 20
    assert config.process.stop_grace == 3.0
    assert config.owner is not None
    assert (config.owner.app, config.owner.service, config.owner.slot) == ("shop", "web", 2)
    assert (config.owner.revision, config.owner.spec_digest) == ("r7", "sha256:d")
    assert config.labels["team"] == "blue"
    assert config.labels["com.docker.compose.project"] == "shop"


IMAGE = ImageConfig("amd64", "linux", healthcheck={"Test": ["CMD-SHELL", "curl x"], "Interval": 2_000_000_000})


@pytest.mark.parametrize(
    ("document", "image", "expected"),
    [
        (None, None, None),
        ("{}", ImageConfig("amd64", "linux"), None),
        ("{}", IMAGE, HealthPlan(("/bin/sh", "-c", "curl x"), interval=2.0)),
        ("{}", replace(IMAGE, shell=("/bin/bash", "-ec")), HealthPlan(("/bin/bash", "-ec", "curl x"), interval=2.0)),
        ('{"healthcheck": {"disable": true}}', IMAGE, None),
        ('{"healthcheck": {"test": ["NONE"]}}', IMAGE, None),
        (
            '{"healthcheck": {"interval": 7, "retries": 9}}',
            IMAGE,
            HealthPlan(("/bin/sh", "-c", "curl x"), 7, retries=9),
        ),
        ('{"healthcheck": {"test": ["CMD", "a", "b"]}}', None, HealthPlan(("a", "b"))),
    ],
)
def test_healthcheck_comes_from_the_service_then_the_image(
    document: str | None, image: ImageConfig | None, expected: HealthPlan | None
) -> None:
    assert compute_health_plan(document, image) == expected


def test_health_follows_docker() -> None:
    plan = HealthPlan(("x",), interval=30, start_period=10, start_interval=1, retries=2)
    record = compute_record(plan, HealthRecord(), False, up=5, now=105)
    assert (record.status, record.streak) == (Health.STARTING, 0), "failures in the start period do not count"
    record = compute_record(plan, record, False, up=15, now=115)
    assert (record.status, record.streak) == (Health.STARTING, 1)
    record = compute_record(plan, record, False, up=45, now=145)
    assert record.status is Health.UNHEALTHY
    record = compute_record(plan, record, True, up=75, now=175)
    assert (record.status, record.streak, record.healthy_at) == (Health.HEALTHY, 0, 175)
    assert plan.compute_wait(Health.STARTING, 5) == 1
    assert plan.compute_wait(Health.STARTING, 15) == 30
    assert plan.compute_wait(Health.HEALTHY, 5) == 30


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        (("0.0.0.0", 80, "tcp"), ("127.0.0.1", 80, "tcp"), True),
        (("127.0.0.1", 80, "tcp"), ("127.0.0.1", 80, "tcp"), True),
        (("127.0.0.1", 80, "tcp"), ("127.0.0.2", 80, "tcp"), False),
        (("0.0.0.0", 80, "tcp"), ("0.0.0.0", 80, "udp"), False),
        (("0.0.0.0", 80, "tcp"), ("0.0.0.0", 81, "tcp"), False),
    ],
)
def test_a_port_belongs_to_who_had_it(first: Any, second: Any, conflict: bool) -> None:
    apps = {"a": AppEndpoints({second: ()}, {second: "web"}), "z": AppEndpoints({first: ()}, {first: "api"})}
    published, held, refused = compute_published(apps, {first: "z"})
    assert ("a" in refused) is conflict
    assert "z" not in refused
    assert held[first] == "z"
    assert len(published) == (1 if conflict else 2)


def test_failures_are_judged_by_their_disposition() -> None:
    assert compute_failure(Waiting("x", retry_after=2), 1).retry_after == 2
    assert compute_failure(Waiting("x", retry_after=2), 3).retry_after == 8
    assert compute_failure(Waiting("x", retry_after=2), 99).retry_after == LONGEST_RETRY
    assert compute_failure(Stalled("x", reason="NoCommand"), 1) == compute_failure(Stalled("x", reason="NoCommand"), 9)
    assert compute_failure(Stalled("x"), 1).retry_after is None
    assert compute_failure(NotFound("x"), 1).retry_after == 30
    assert compute_failure(KeyError("x"), 1).reason == "InternalError"


def test_an_action_that_never_helps_is_stopped() -> None:
    action = EnsureNetwork(id="network/x", cause=Cause("NetworkMissing", "gone"), name="x", key="default")
    faults = Faults()
    for _ in range(REPEAT_LIMIT):
        assert faults.may_try(action, 0.0)
        faults.succeed(action)
    assert not faults.may_try(action, 0.0)
    findings = Findings(Plan("shop", (action,)), repeats=faults.repeats)
    conditions = {condition.type: condition for condition in compute_conditions(findings)}
    assert (conditions["Stalled"].status, conditions["Stalled"].reason) == ("True", "PlanRepeats")
    assert conditions["Reconciling"].status == "False"
    faults.keep(())
    assert faults.may_try(action, 0.0)


def test_conditions_change_their_time_only_with_their_status() -> None:
    hold = Hold("BackOff", "web-1 failed", failing=True)
    before, changed = carry_over({}, compute_conditions(Findings(Plan("shop", holds=(hold,)))), 1, 10.0)
    assert before["Ready"] == Condition("Ready", "False", "BackOff", "web-1 failed", 1, 10.0)
    assert len(changed) == 4
    same, changed = carry_over(before, compute_conditions(Findings(Plan("shop", holds=(hold,)))), 1, 20.0)
    assert same == before
    assert changed == []
    after, changed = carry_over(before, compute_conditions(Findings(Plan("shop"))), 2, 30.0)
    assert (after["Ready"].status, after["Ready"].since, after["Ready"].generation) == ("True", 30.0, 2)
    assert {condition.type for condition in changed} == {"Ready", "Reconciling"}


def test_a_rollback_that_cannot_go_on_stays_a_rollback() -> None:
    """Its reason does not change with every try: each change would be an event and, of some, a notice."""
    back = Hold("RollingBack", "back to revision 1: web-2: no room", failing=True)
    full = Hold("InsufficientStorage", "web-1: the disk is full", failing=True)
    trying, stuck = (compute_conditions(Findings(Plan("shop", holds=holds)))[0] for holds in ((back,), (full, back)))
    assert trying.reason == stuck.reason == "RollingBack"
    assert full.message in stuck.message
    found, _ = carry_over({}, (trying,), 1, 10.0)
    assert carry_over(found, (stuck,), 1, 20.0)[1] == []


@pytest.mark.parametrize(
    ("status", "waited", "told"),
    [
        (ExitStatus(0), 1.0, "stopped (exit code 0)"),
        (ExitStatus(None, 9), 1.0, "stopped (signal 9)"),
        (ExitStatus(None, 9), 10.0, "did not end within 10 s of its stop signal and was killed"),
        (ExitStatus(None, 9, oom=True), 10.0, "stopped (signal 9)"),
    ],
)
def test_who_ignores_its_stop_signal_is_told(status: ExitStatus, waited: float, told: str) -> None:
    assert describe_stop(status, waited, 10.0) == told


def test_a_hundred_replicas_are_not_told_one_by_one() -> None:
    holds = [Hold("NotReady", f"shop-web-{slot} is not ready yet", "web", slot) for slot in range(1, 101)]
    ready = compute_conditions(Findings(Plan("shop", holds=(*holds, Hold("Other", "and this")))))[0]
    told = ready.message.splitlines()
    assert told == [*(hold.message for hold in holds[:5]), "and this", "95 more of web: NotReady"]


def test_what_has_to_be_put_right_is_told_whenever_it_is_something_else() -> None:
    def tell(before: dict[str, Condition], invalid: str, plan: Plan | None = None) -> list[str]:
        findings = Findings(plan=plan or Plan("shop"), invalid=invalid)
        found, changed = carry_over(before, compute_conditions(findings), 1, 100.0)
        before.update(found)
        return sorted(f"{condition.type}: {condition.message.partition(chr(10))[0]}" for condition in changed)

    known: dict[str, Condition] = {}
    tell(known, "")
    assert tell(known, "a.yaml:1:1: x") == ["Ready: a.yaml:1:1: x", "Stalled: a.yaml:1:1: x"]
    assert tell(known, "a.yaml:1:1: x") == []
    assert tell(known, "a.yaml:2:1: y") == ["Stalled: a.yaml:2:1: y"]
    assert known["Ready"].message.startswith("a.yaml:2:1: y")
    tell(known, "")
    for seconds in (2, 1):
        told = tell(known, "", Plan("shop", holds=(Hold("BackOff", f"again in {seconds} s", failing=True),)))
        assert ("Ready: again in 2 s" in told) is (seconds == 2)


def test_histories_survive_the_database() -> None:
    history = SlotHistory("d", 1, 2, 3, 4.0, ("a", "b"), ContainerExit(None, 9, True, 4.0), 5.0, True, "R", "m")
    assert decode_history(encode_history(history)) == history
    assert decode_history({**encode_history(history), "unknown": 1}) == history


def revision(*files: Files) -> Revision:
    return Revision("r", {found.key: found for found in files})


def test_two_files_with_one_name_do_not_fight(tmp_path: Path) -> None:
    async def body() -> None:
        database = Database(tmp_path / "db")
        known = LastGood(database, Journal(database, Gate()))
        later = Files("a", "1", make_app("shop", {"api": {}}))
        first = Files("z", "1", make_app("shop", {"web": {}}))
        assert set(compute_targets(revision(first), known)) == {"shop"}
        targets = compute_targets(revision(later, first), known)
        assert set(targets) == {"shop", "a"}
        assert targets["shop"].desired is not None
        assert set(targets["shop"].desired.app.services) == {"web"}
        assert targets["a"].desired is None
        assert "shop" in targets["a"].invalid

    asyncio.run(body())


def test_app_that_was_never_valid_is_left_alone(tmp_path: Path) -> None:
    async def body() -> None:
        database = Database(tmp_path / "db")
        known = LastGood(database, Journal(database, Gate()))
        targets = compute_targets(revision(Files("x", "1", None, (Problem("x.yaml", 1, 1, "bad"),))), known)
        assert targets["x"].desired is None
        assert targets["x"].invalid == "x.yaml:1:1: bad"

    asyncio.run(body())


def test_journal_writes_the_newest_value(tmp_path: Path) -> None:
    async def body() -> None:
        database = Database(tmp_path / "db")
        journal = Journal(database, Gate())
        for number in range(50):
            journal.put("slot", "a", {"n": number})
        journal.put("slot", "b", {"n": 1})
        await journal.flush()
        journal.put("slot", "b", None)
        journal.close()
        assert database.all("slot") == {"a": {"n": 49}}

    asyncio.run(body())


def test_journal_writes_all_kinds_or_none(tmp_path: Path) -> None:
    """A revision and the deploy that names it, whichever of them was noted first."""

    class Failing(Database):
        full = True

        def put_many(self, kind: str, items: Any) -> None:
            if kind == "revision" and self.full:
                raise Waiting("the disk is full")
            super().put_many(kind, items)

    async def body() -> None:
        database = Failing(tmp_path / "db")
        database.put("deploy", "old", {})
        journal = Journal(database, Gate())
        journal.put("deploy", "old", None)
        journal.put("deploy", "shop", {"deploy": "sha256:2"})
        journal.put("revision", "shop/2", {"id": "sha256:2"})
        with pytest.raises(Waiting):
            await journal.flush()
        assert (database.all("deploy"), database.all("revision")) == ({"old": {}}, {})
        database.full = False
        await journal.flush()
        assert (list(database.all("deploy")), list(database.all("revision"))) == (["shop"], ["shop/2"])

    asyncio.run(body())


def test_timed_image_states() -> None:
    """Asked again when its time is up, whoever pulled it; a failure leaves what is local good until the next try."""
    images, now = FakeImages(), [1000.0]
    app = make_app(services={"web": {"image": "example/web:1", "pull_policy": "every_60s"}})
    desired = DesiredApp(app, "r1")
    (want,) = desired.images.values()
    states = AppImages("shop", images, {}, lambda: now[0])
    states.begin(desired)
    assert states.states[want.key] == ImageState()
    resolved = states.resolve(want, desired, threading.Event())
    _, document = states.succeed(want, desired, resolved, states.epoch)
    assert images.calls == ["pull example/web:1 always"]
    assert (states.states[want.key].current, states.states[want.key].due) == (True, 1060.0)
    now[0] = 1061.0
    states.fail(want.key, Failure("RegistryUnreachable", "it is down", 5.0), now[0])
    assert states.states[want.key] == ImageState(resolved.image.id, current=True, due=1066.0)
    states.fail(want.key, Failure("RegistryUnauthorized", "no", None), now[0])
    assert states.states[want.key].due == 1121.0
    again = AppImages("shop", images, {want.key: document}, lambda: now[0])
    again.begin(desired)
    assert again.states[want.key] == ImageState(resolved.image.id, current=True, due=1060.0)
    now[0] = 100.0
    again.recheck(desired)
    assert again.states[want.key].due == 160.0, "a clock that was set back does not put it off"


@pytest.mark.parametrize("unless", ["always", "missing", "never"])
def test_an_image_that_could_be_built_is_taken_where_it_can_be_had(unless: str) -> None:
    images = FakeImages()
    build = {"context": "/srv", "unless": unless}
    desired = DesiredApp(make_app(services={"web": {"image": "example/web:1", "build": build}}), "r1")
    (want,) = desired.images.values()
    states = AppImages("shop", images, {})
    states.begin(desired)

    def resolve(failure: HoldfastError | None = None) -> Resolved:
        images.failures = {"example/web:1": failure} if failure is not None else {}
        images.calls.clear()
        resolved = states.resolve(want, desired, threading.Event())
        states.succeed(want, desired, resolved, states.epoch)
        return resolved

    if unless == "never":
        assert (resolve().built_from, images.calls) == ("one", ["build example/web:1"])
    else:
        with pytest.raises(Stalled):
            resolve(Stalled("no", reason="ImageRejected"))
        assert (resolve().built_from, images.calls) == ("", [f"pull example/web:1 {unless}"])
        with pytest.raises(Waiting):
            resolve(Waiting("down"))
    states.begin(desired)
    assert states.states[want.key].current
    states.begin(DesiredApp(desired.app, "r2"))
    assert states.states[want.key].current is (unless != "always")


@pytest.mark.parametrize(
    "failure",
    [NotFound("no"), Stalled("no", reason="RegistryUnauthorized"), Waiting("down")],
    ids=["no", "401", "down"],
)
def test_what_cannot_be_had_is_built(failure: HoldfastError) -> None:
    images = FakeImages()
    desired = DesiredApp(
        make_app(services={"web": {"image": "example/web:1", "build": {"context": "/srv", "unless": "missing"}}}), "r1"
    )
    (want,) = desired.images.values()
    states = AppImages("shop", images, {})
    states.begin(desired)
    images.pull_failures = {"example/web:1": failure}
    resolved = states.resolve(want, desired, threading.Event())
    assert (resolved.built_from, resolved.worked) == ("one", True)
    assert images.calls == ["pull example/web:1 missing", "build example/web:1"]
