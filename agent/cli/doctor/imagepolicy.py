"""Is the image policy as it should be? One that is wrong refuses every image."""

from __future__ import annotations

from agent.cli.doctor.finding import Finding, Host, Verdict
from agent.errors import HoldfastError

_NAME = "image policy"


def check_policy(host: Host) -> Finding:
    """What the policy file says of images that no rule matches, or all that is wrong with it."""
    from agent.image.trust.policy import PolicyFile

    if host.policy is None or not host.policy.exists():
        return Finding(_NAME, Verdict.OK, "there is none: every image may come in")
    try:
        *rules, last = PolicyFile(host.policy).current().rules
    except HoldfastError as error:
        return Finding(_NAME, Verdict.FAIL, error.message, "correct the file; until then every image is refused")
    signed = sum(rule.verdict == "require" for rule in rules)
    return Finding(_NAME, Verdict.OK, f"rules: {len(rules)} ({signed} need signatures), default: {last.verdict}")
