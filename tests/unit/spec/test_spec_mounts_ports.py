from __future__ import annotations

import pytest
from spec_loading import problems_of, service, service_problems

from agent.spec.model import Mount, Port


def ports(*written: str) -> tuple[Port, ...]:
    return service("ports:\n" + "".join(f"  - {entry}\n" for entry in written)).ports


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("8080:80", [Port(published=8080, target=80)]),
        ('"8080:80/udp"', [Port(published=8080, target=80, protocol="udp")]),
        ('"127.0.0.1:8080:80"', [Port(host_ip="127.0.0.1", published=8080, target=80)]),
        ('"8000-8001:80-81/tcp"', [Port(published=8000, target=80), Port(published=8001, target=81)]),
        ("{target: 80, published: 8080}", [Port(published=8080, target=80)]),
        (
            '{name: web, target: 53, published: "5300", protocol: udp, host_ip: 127.0.0.2, mode: ingress}',
            [Port(host_ip="127.0.0.2", published=5300, target=53, protocol="udp")],
        ),
        ('"${PORT:-9000}:80"', [Port(published=9000, target=80)]),
    ],
)
def test_ports(written: str, expected: list[Port]) -> None:
    assert list(ports(written)) == expected


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"80"', "random host port is not supported yet"),
        ('"0:80"', "random host port is not supported yet"),
        ('"127.0.0.1::80"', "random host port is not supported yet"),
        ("{target: 80}", "random host port is not supported yet"),
        ('"8000-8005:80"', "out of a range is not supported yet"),
        ('"8000-8001:80-85"', "differ in length"),
        ('"70000:80"', "numbers from 1 to 65535"),
        ('"81-80:81-80"', "ranges go upwards"),
        ('"1-2000:1-2000"', "a range of more than 1024 ports"),
        ('"[::1]:80:80"', "IPv6 address is not supported yet"),
        ('"host:80:80"', "not an IPv4 address"),
        ('"80:80/sctp"', "sctp is not supported yet"),
        ('"80:80/icmp"', "neither tcp nor udp"),
        ('"a:b"', "is not a port"),
        ("{target: 80, published: 80, mode: host}", "host is not supported yet"),
        ("{published: 80}", "the container's port is missing"),
        ("", "is empty"),
    ],
)
def test_ports_that_are_none(written: str, said: str) -> None:
    (problem,) = service_problems(f"ports:\n  - {written}")
    assert problem.startswith("2:")
    assert said in problem


def test_a_host_port_is_had_once() -> None:
    text = """\
    services:
      a: {image: x, ports: ["80:80", "127.0.0.1:81:80", "82:82/udp"]}
      b: {image: x, ports: ["127.0.0.1:80:1", "127.0.0.2:81:80", "82:82", "${P:-80}:5"]}
    """
    assert problems_of(text) == [
        "3:25: services.b.ports: host port 80/tcp is taken by service 'a', line 2",
        "3:71: services.b.ports: the host port of '${P:-80}:5' is taken by service 'a', line 2",
    ]


def mounts(*written: str) -> list[Mount]:
    return list(service("volumes:\n" + "".join(f"  - {entry}\n" for entry in written)).mounts)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/data", Mount(kind="volume", target="/data")),
        ("data:/data", Mount(kind="volume", source="data", target="/data")),
        ("data:/data/:ro,nocopy", Mount(kind="volume", source="data", target="/data", read_only=True, nocopy=True)),
        (
            "/etc/ssl:/ssl:ro",
            Mount(kind="bind", source="/etc/ssl", target="/ssl", read_only=True, create_host_path=True),
        ),
        ("./html:/www", Mount(kind="bind", source="/srv/state/shop/html", target="/www", create_host_path=True)),
        ("~/x:/x", Mount(kind="bind", source="/root/x", target="/x", create_host_path=True)),
        (
            "/a:/a:rslave",
            Mount(kind="bind", source="/a", target="/a", propagation="rslave", create_host_path=True),
        ),
        (
            "{type: bind, source: ./a, target: /a, bind: {create_host_path: false, propagation: shared}}",
            Mount(kind="bind", source="/srv/state/shop/a", target="/a", propagation="shared"),
        ),
        (
            "{type: volume, source: data, target: /d, read_only: true, volume: {nocopy: true, subpath: a/b}}",
            Mount(kind="volume", source="data", target="/d", read_only=True, nocopy=True, subpath="a/b"),
        ),
        (
            "{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 01777}}",
            Mount(kind="tmpfs", target="/t", size=1 << 20, mode=0o1777),
        ),
    ],
)
def test_mounts(written: str, expected: Mount) -> None:
    assert mounts(written) == [expected]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("tmpfs: /run", [Mount(kind="tmpfs", target="/run")]),
        (
            "tmpfs: ['/run:size=64k,mode=700,ro', /tmp]",
            [
                Mount(kind="tmpfs", target="/run", size=65536, mode=0o700, read_only=True),
                Mount(kind="tmpfs", target="/tmp"),
            ],
        ),
    ],
)
def test_tmpfs(written: str, expected: list[Mount]) -> None:
    assert list(service(written).mounts) == expected


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("other:/data", "the volume 'other' is not declared"),
        ("data:relative", "must be absolute"),
        ("data:/", "neither be /"),
        ("data:/a/../b", "nor hold .."),
        ("data:/a:rx", "a mode is one of"),
        ("data:/a:Z", "Z is not supported yet"),
        ("data:/a:rshared", "propagation is for binds"),
        ("/a:/a:nocopy", "nocopy is for volumes"),
        ("a:b:c:d", "is not [SOURCE:]TARGET[:MODE]"),
        (":/a", "the source is empty"),
        ("{source: data, target: /a}", "type is missing"),
        ("{type: image, source: x, target: /a}", "image is not supported yet"),
        ("{type: disk, source: x, target: /a}", "none of bind, tmpfs, volume"),
        ("{type: volume, source: data}", "target is missing"),
        ("{type: bind, target: /a}", "source is missing"),
        ("{type: tmpfs, source: x, target: /a}", "a tmpfs has no source"),
        ("{type: volume, source: data, target: /a, volume: {subpath: ../x}}", "without .."),
        ("{type: volume, source: data, target: /a, tmpfs: {size: 1}}", "does not go with type volume"),
        ("[a]", "must be a single value"),
    ],
)
def test_mounts_that_are_none(written: str, said: str) -> None:
    (problem,) = service_problems(f"volumes:\n  - {written}")
    assert problem.startswith("2:")
    assert said in problem


def test_a_mount_point_is_had_once() -> None:
    (problem,) = service_problems("volumes: [/a]\ntmpfs: []\n".replace("[/a]", "[/a, 'data:/a/']"))
    assert "the path in the container is a mount point already, in line 4" in problem


@pytest.mark.parametrize(
    ("written", "said"), [("x", "absolute"), ("/t:size=x", "not a size"), ("/t:noexec", "not supp")]
)
def test_tmpfs_that_is_none(written: str, said: str) -> None:
    (problem,) = service_problems(f"tmpfs: [{written}]")
    assert said in problem
