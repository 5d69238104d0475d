"""Desired states for the real-host tests, all made of this machine's static busybox."""

from __future__ import annotations

import textwrap

from agents import Agent

DOCKERFILE = """\
FROM scratch
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""
BUILD = "build: {context: ., additional_contexts: {host: /bin}}"
COUNTER = "n=0; while :; do n=$$((n+1)); echo line $$n; sleep 0.01; done"


def write_app(agent: Agent, name: str, services: str, extra: str = "") -> None:
    """Put an app of one sub-directory into the state directory; ``services`` may say BUILD for the busybox image."""
    if not (agent.state / name / "Dockerfile").exists():
        agent.write(f"{name}/Dockerfile", DOCKERFILE)
    body = textwrap.indent(textwrap.dedent(services).replace("BUILD", BUILD), "  ")
    agent.write(f"{name}/compose.yaml", f"services:\n{body}\n{textwrap.dedent(extra)}")


def sleeper(replicas: int, extra: str = "") -> str:
    """One service ``web`` of ``replicas`` that does nothing, ends on SIGTERM at once, and takes more keys."""
    return (
        f"web:\n  BUILD\n  init: true\n  command: [sleep, '86400']\n  stop_grace_period: 1s\n"
        f"  deploy: {{replicas: {replicas}, update_config: {{monitor: 100ms}}, rollback_config: {{monitor: 100ms}}}}\n"
        f"{textwrap.indent(extra, '  ')}"
    )
