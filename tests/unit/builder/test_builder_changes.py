"""What --change says of an imported image."""

from __future__ import annotations

import pytest

from agent.builder.dockerfile.changes import apply_changes
from agent.errors import HoldfastError
from agent.oci.imageconfig import ImageConfig
from agent.oci.platform import Platform

HOST = Platform("linux", "amd64")
EMPTY = ImageConfig("amd64", "linux")


def test_every_change_counts_in_order() -> None:
    changes = [
        'CMD ["a", "b"]',
        "ENV A=1 B='2 3'",
        "ENV C=$A",
        "EXPOSE 80 53/udp",
        "LABEL x=y",
        "USER 5:6",
        "WORKDIR /a",
        "WORKDIR b",
    ]
    config = apply_changes(EMPTY, changes, HOST)
    assert (config.cmd, config.env, config.user) == (("a", "b"), ("A=1", "B=2 3", "C=1"), "5:6")
    assert (config.exposed_ports, dict(config.labels), config.working_dir) == (("53/udp", "80/tcp"), {"x": "y"}, "/a/b")
    assert apply_changes(EMPTY, ["ENTRYPOINT run it"], HOST).entrypoint == ("/bin/sh", "-c", "run it")
    assert apply_changes(EMPTY, [], HOST) == EMPTY


@pytest.mark.parametrize(
    "bad",
    [
        "RUN x",
        "COPY a b",
        "FROM y",
        "EXPOSE 99999",
        "",
        " ",
        "# x",
        "ENV A=1\nRUN x",
        "ENV",
        "ONBUILD RUN x",
        "CMD a \\",
    ],
)
def test_what_cannot_be_changed_is_refused(bad: str) -> None:
    with pytest.raises(HoldfastError):
        apply_changes(EMPTY, ["USER 1", bad], HOST)
