"""``deploy`` with replicas, limits and restart policy, and the service's own ``scale``, ``restart`` and ``ulimits``."""

from __future__ import annotations

from agent.spec.fields import Fields, read_pairs
from agent.spec.keys import DEPLOY, LIMITS, RESERVATIONS, RESOURCES, RESTART_POLICY, ULIMIT, ULIMITS
from agent.spec.model import RestartPolicy
from agent.spec.reading import Reading
from agent.spec.scalars import parse_integer, parse_number
from agent.spec.tree import Mapping, Node
from agent.values import frozen

REPLICA_LIMIT = 10_000
_ULIMIT_LIMIT = 2**63 - 1
_CONDITIONS = frozenset({"none", "on-failure", "any"})


@frozen
class Limits:
    """Cores, bytes and processes; None for no limit. ``memory_reservation``: the bytes that are kept for it."""

    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    memory_reservation: int | None = None


def read_replicas(service: Fields, deploy: Fields | None) -> int:
    """``scale`` or ``deploy.replicas``; both only if they agree."""
    scale = service.integer("scale", highest=REPLICA_LIMIT)
    replicas = deploy.integer("replicas", highest=REPLICA_LIMIT) if deploy else None
    if deploy is not None and scale is not None and replicas is not None and scale != replicas:
        deploy.complain("replicas", f"contradicts {service.at('scale')}: set only one of them")
    return replicas if replicas is not None else scale if scale is not None else 1


def read_deploy(service: Fields) -> Fields | None:
    """``deploy``."""
    return service.nested("deploy", DEPLOY)


def read_limits(deploy: Fields | None) -> Limits:
    """``deploy.resources``; 0 means no limit, or no reservation, as Docker has it."""
    resources = deploy.nested("resources", RESOURCES) if deploy else None
    if resources is None:
        return Limits()
    limits = resources.nested("limits", LIMITS)
    cpus = limits.parsed("cpus", parse_number, "a number of cores such as 0.5") if limits else None
    memory = limits.size("memory") if limits else None
    pids = limits.integer("pids", lowest=-1) if limits else None
    reservation = _read_reservation(resources, memory or None)
    return Limits(cpus or None, memory or None, pids if pids is not None and pids > 0 else None, reservation)


def _read_reservation(resources: Fields, limit: int | None) -> int | None:
    reservations = resources.nested("reservations", RESERVATIONS)
    memory = reservations.size("memory") if reservations else None
    if reservations is not None and memory and limit is not None and memory > limit:
        reservations.complain("memory", f"is above the limit: {resources.at('limits')}.memory says {limit} bytes")
    return memory or None


def read_restart(service: Fields, deploy: Fields | None) -> RestartPolicy:
    """``deploy.restart_policy`` if there is one, else ``restart``, else ``any``."""
    short = _read_short(service)
    policy = deploy.nested("restart_policy", RESTART_POLICY) if deploy else None
    if policy is None:
        return short
    condition = policy.choice("condition", _CONDITIONS) or "any"
    return RestartPolicy.model_validate(
        {
            "condition": condition,
            "delay": policy.duration("delay"),
            "max_attempts": policy.integer("max_attempts") or None,
            "window": policy.duration("window"),
        }
    )


def _read_short(service: Fields) -> RestartPolicy:
    text = service.text("restart")
    if text is None or text in ("always", "unless-stopped"):
        return RestartPolicy()
    if text == "no":
        return RestartPolicy(condition="none")
    word, colon, count = text.partition(":")
    attempts = parse_integer(count) if colon else 0
    if word == "on-failure" and attempts is not None and attempts >= 0:
        return RestartPolicy(condition="on-failure", max_attempts=attempts or None)
    service.complain("restart", f"{service.shown('restart')} is none of no, always, unless-stopped, on-failure[:N]")
    return RestartPolicy()


def read_ulimits(reading: Reading, node: Node | None, path: str) -> tuple[tuple[str, int, int], ...]:
    """``ulimits``: one number, or soft and hard; -1 for unlimited."""
    if node is None:
        return ()
    fields = Fields(reading, node, path, ULIMITS)
    names = [key.source for key, _ in read_pairs(reading, node, path, quiet=True) if key.source in ULIMITS.read]
    return tuple(limit for name in names if (limit := _read_ulimit(fields, name)) is not None)


def _read_ulimit(fields: Fields, name: str) -> tuple[str, int, int] | None:
    if isinstance(fields.where(name), Mapping):
        both = Fields(fields.reading, fields.where(name), fields.at(name), ULIMIT)
        soft, hard = (both.integer(part, -1, _ULIMIT_LIMIT) for part in ("soft", "hard"))
        missing = [part for part in ("soft", "hard") if not both.node_of(part)]
        if missing:
            fields.complain(name, f"{' and '.join(missing)} must be given")
    else:
        soft = hard = fields.integer(name, -1, _ULIMIT_LIMIT)
    if soft is None or hard is None:
        return None
    if hard != -1 and (soft > hard or soft == -1):
        fields.complain(name, "the soft limit is above the hard one")
        return None
    return (name, soft, hard)
