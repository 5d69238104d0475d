"""How a plan may get to what is desired: whether a deploy is under way, which way it goes, and what people said."""

from __future__ import annotations

from agent.values import frozen


@frozen
class Course:
    """``deploying``: what is desired differs from what was in force, so replacements have to prove themselves and their
    failures since ``since`` (epoch seconds) count. ``reverting``: it is being taken back. ``forward`` services may
    do again what they had completed. ``held``: no container is exchanged for one of another spec. ``paused``: the
    services that nothing at all is done to.
    """

    deploying: bool = False
    reverting: bool = False
    held: str = ""
    since: float = 0.0
    forward: frozenset[str] | None = None
    paused: frozenset[str] = frozenset()

    def may_run_again(self, service: str) -> bool:
        """Whether work that a service has completed is done again because its spec is another one."""
        return self.forward is None or service in self.forward


STEADY = Course()


@frozen
class Progress:
    """Where a deploy stands with one service: ``settled`` when every slot is as desired and has arrived;
    ``failed`` says of each slot that failed since the deploy began, how; ``tried`` when every slot is one or the
    other."""

    settled: bool
    replicas: int = 0
    failed: tuple[str, ...] = ()
    tried: bool = False
