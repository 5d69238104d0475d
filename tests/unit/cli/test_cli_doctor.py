from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.doctor.attempt import attempt
from agent.cli.doctor.cgroups import Hierarchies, judge, parse_mounts
from agent.cli.doctor.finding import Check, Host, Verdict, ok, run_check
from agent.cli.doctor.identity import check_identity
from agent.cli.doctor.imagepolicy import check_policy
from agent.cli.doctor.kernel import check_layer_images, judge_version
from agent.cli.doctor.registries import check_registry
from agent.cli.doctor.software import judge_space
from agent.image.config import RegistryConfig
from agent.store.identities import add_identity, make_identity

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
HOST = Host(Path("/nonexistent/data"))


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("5.10.0-13-amd64", Verdict.FAIL),
        ("4.19", Verdict.FAIL),
        ("x", Verdict.FAIL),
        ("5.14.0", Verdict.OK),
        ("6.18.1", Verdict.OK),
    ],
)
def test_kernel_versions(release: str, verdict: Verdict) -> None:
    assert judge_version(release)[0] is verdict


def test_hierarchies_are_told_apart() -> None:
    v1, v2 = parse_mounts(HYBRID)
    assert set(v1) == {"cpu", "cpuacct", "memory", "pids"}
    assert v2 == Path("/sys/fs/cgroup/unified")
    assert judge(Hierarchies(v1, v2)) == ok("hybrid: cpu, memory, pids")
    assert judge(Hierarchies({}, v2, frozenset({"cpu", "memory", "pids"})))[0] is Verdict.OK
    assert judge(Hierarchies({}, v2, frozenset({"cpu", "pids"})))[0] is Verdict.WARN
    assert judge(Hierarchies({}, None))[0] is Verdict.FAIL


@pytest.mark.parametrize(("free", "verdict"), [(1, Verdict.FAIL), (1 << 30, Verdict.WARN), (1 << 40, Verdict.OK)])
def test_space(free: int, verdict: Verdict) -> None:
    assert judge_space(free, 1 << 41, Path("/"))[0] is verdict


def test_identity(tmp_path: Path) -> None:
    host, file = Host(tmp_path), tmp_path / "age.key"
    assert check_identity(host)[0] is Verdict.OK
    assert "`holdfast key` makes it" in check_identity(host)[1]
    (own,) = make_identity(file)[0].recipients
    assert check_identity(host) == ok(f"encrypted files are for {own}")
    (fresh, _) = add_identity(file).recipients
    assert check_identity(host) == ok(f"encrypted files are for {fresh}, and 1 older")
    file.chmod(0o644)
    verdict, told, advice = check_identity(host)
    assert (verdict, "can be read by others" in told) == (Verdict.FAIL, True)
    assert advice.startswith("chmod 600")


def test_layer_images_are_tried(tmp_path: Path) -> None:
    verdict, told, _ = check_layer_images(Host(tmp_path))
    assert verdict is Verdict.OK
    assert told == "large layers are kept as EROFS images" or "unpacked to files" in told
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_whatever_is_wrong_comes_with_advice() -> None:
    outcomes = [judge_version("4.0"), judge(Hierarchies({}, None)), judge_space(1, 2, Path("/"))]
    assert all(advice for verdict, _, advice in outcomes if verdict is not Verdict.OK)


def test_a_check_that_breaks_is_a_warning() -> None:
    def broken(_host: Host) -> tuple[Verdict, str, str]:
        raise OSError(5, "Input/output error")

    finding = run_check(Check("x", broken), HOST)
    assert finding.verdict is Verdict.WARN
    assert finding.advice


def test_without_root_it_says_so() -> None:
    def never(_host: Host) -> tuple[Verdict, str, str]:
        raise AssertionError("asked without root")

    finding = run_check(Check("x", never, needs_root=True), Host(Path("/"), root=False))
    assert "without root" in finding.message


def test_attempts_report_their_error_and_leave_no_child() -> None:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    before = find_children()
    assert attempt(lambda: None) is None
    assert attempt(refuse) == "Operation not permitted"
    assert find_children() == before


def find_children() -> set[str]:
    """Also those that have ended and that nobody has waited for."""
    lists = Path("/proc/self/task").glob("*/children")
    return {pid for each in lists for pid in each.read_text().split()}


def test_dead_registry_is_a_warning() -> None:
    finding = check_registry("127.0.0.1:9", RegistryConfig())
    assert finding.verdict is Verdict.WARN
    assert "refused" in finding.message


def test_a_wrong_policy_is_told_before_it_refuses_every_image(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    assert check_policy(Host(tmp_path, policy=path)).message == "there is none: every image may come in"
    path.write_text("default: reject\nrules: [{match: docker.io/a/**, policy: accept}]\n")
    assert check_policy(Host(tmp_path, policy=path)).message == "rules: 1 (0 need signatures), default: reject"
    path.write_text("default: reject\nrules: [{match: docker.io/a/**, polcy: accept}]\n")
    found = check_policy(Host(tmp_path, policy=path))
    assert found.verdict is Verdict.FAIL
    assert "'polcy' is unknown" in found.message
