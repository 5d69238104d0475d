"""Desired states, all made of the guest's static busybox."""

from __future__ import annotations

import textwrap

from scenario.host import STATE, write

DOCKERFILE = """\
FROM scratch
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""
BUILD = "build: {context: ., additional_contexts: {host: /bin}}"
PORT = 8080

SHOP = """\
services:
  web:
    BUILD
    command: [sh, -c, "mkdir /www; hostname >/www/index.html; exec httpd -f -p 80 -h /www"]
    stop_grace_period: 1s
    ports: ["127.0.0.1:8080:80"]
    deploy:
      replicas: REPLICAS
      resources: {limits: {cpus: "0.5", memory: 64M, pids: 50}}
  store:
    BUILD
    init: true
    command: [sh, -c, "cat /proc/sys/kernel/random/boot_id >>/data/boots; sync; exec sleep 86400"]
    stop_grace_period: 1s
    volumes: ["data:/data"]
volumes:
  data:
"""
HUNGRY = """\
services:
  eater:
    BUILD
    command: [sh, -c, "[ -e /data/fed ] && exec sleep 86400; touch /data/fed; sync; tail /dev/zero"]
    volumes: ["data:/data"]
    deploy: {resources: {limits: {memory: 32M}}}
volumes:
  data:
"""
LATE = """\
services:
  last:
    BUILD
    command: [sh, -c, "cat /words/* | wc -l; exec sleep 86400"]
"""
LATE_DOCKERFILE = DOCKERFILE + "RUN mkdir /words && for n in $(seq 40); do seq 500 >/words/$n; done && touch /whole\n"


def write_app(name: str, compose: str, dockerfile: str = DOCKERFILE, replicas: int = 2) -> None:
    """Put an app into the state directory."""
    write(STATE / name / "Dockerfile", dockerfile)
    text = textwrap.dedent(compose).replace("BUILD", BUILD).replace("REPLICAS", str(replicas))
    write(STATE / name / "compose.yaml", text)
