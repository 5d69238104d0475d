from __future__ import annotations

import pytest

from agent.builder.dockerfile.mountspec import BindMount, CacheMount, Dressing, SecretMount, SshMount, TmpfsMount
from agent.builder.dockerfile.origins import CONTEXT, Origin, OriginKind
from agent.builder.dockerfile.parse import parse_dockerfile
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.dockerfile.state import StageState, create_scratch_config
from agent.builder.dockerfile.steps import RunStep
from agent.builder.faults import InvalidDockerfile
from agent.builder.mounting import compute_scope
from agent.builder.order import BuildOrder
from agent.oci.platform import Platform

HOST = Platform("linux", "amd64")


def step(line: str) -> RunStep:
    order = BuildOrder("/context", "t", args={"A": "given"})
    dockerfile = parse_dockerfile(f"FROM scratch AS made\nFROM scratch\nARG A\nWORKDIR /w\n{line}\n", "Dockerfile")
    plan = compute_plan(dockerfile, order, HOST)
    stage = plan.stages[-1]
    state = StageState("Dockerfile", dockerfile.escape, plan, order.args, create_scratch_config(HOST))
    *_, last = (state.take(instruction, stage) for instruction in stage.instructions)
    assert isinstance(last, RunStep)
    return last


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("target=/a", BindMount("/a", CONTEXT, "/")),
        ("type=bind,dst=sub,src=x/../$A,rw=true", BindMount("/w/sub", CONTEXT, "/given", read_only=False)),
        ("from=made,target=../up,ro", BindMount("/up", Origin(OriginKind.STAGE, stage=0), "/")),
        ("from=0,target=/a,readonly=false", BindMount("/a", Origin(OriginKind.STAGE, stage=0), "/", read_only=False)),
        (
            "type=cache,target=/c,sharing=LOCKED,uid=5,gid=6,mode=1777",
            CacheMount("/c", "/c", "locked", None, "/", Dressing(5, 6, 0o1777)),
        ),
        (
            "type=cache,id=x-$A,target=/c,ro",
            CacheMount("/c", "x-given", "shared", None, "/", Dressing(0, 0, 0o755), read_only=True),
        ),
        ("type=tmpfs,target=/t,size=64m", TmpfsMount("/t", 64 << 20)),
        ("type=tmpfs,target=/dev/shm", TmpfsMount("/dev/shm")),
        ("type=tmpfs,target=/t,size=1KiB", TmpfsMount("/t", 1024)),
        ("type=secret,id=s", SecretMount("s", "/run/secrets/s", "", False, Dressing(0, 0, 0o400))),
        ("type=secret,target=/k/name,required", SecretMount("name", "/k/name", "", True, Dressing(0, 0, 0o400))),
        ("type=secret,id=s,env=TOKEN", SecretMount("s", "", "TOKEN", False, Dressing(0, 0, 0o400))),
        ("type=secret,id=s,env=T,target=/s,mode=0", SecretMount("s", "/s", "T", False, Dressing(0, 0, 0))),
        ("type=ssh", SshMount("default", "/run/buildkit/ssh_agent.0", False, Dressing(0, 0, 0o600))),
    ],
)
def test_mounts(flag: str, wanted: object) -> None:
    assert step(f"RUN --mount={flag} x").mounts == (wanted,)


@pytest.mark.parametrize(
    ("flag", "fault"),
    [
        ("type=bind", "target is missing"),
        ("type=cache,target=/proc/x", "nothing can be mounted"),
        ("type=bind,target=/dev/null", "nothing can be mounted"),
        ("type=secret,id=a,target=/sys/a", "nothing can be mounted"),
        ("type=tmpfs,target=/w/../..", "nothing can be mounted"),
        ("type=tmpfs,target=/t,size=much", "not a size"),
        ("type=cache,target=/c,sharing=all", "not one of"),
        ("type=cache,target=/c,source=/x", "needs from"),
        ("type=cache,target=/c,uid=4294967295", "not a number"),
        ("type=cache,target=/c,mode=99", "not an octal"),
        ("type=secret", "needs an id"),
        ("type=secret,id=a,env=A=B", "not a name"),
        ("type=bind,from=later,target=/x:/", "nothing"),
    ],
)
def test_what_cannot_be_mounted(flag: str, fault: str) -> None:
    if "later" in flag:
        flag, fault = "from=1,target=/x", "no earlier stage"
    with pytest.raises(InvalidDockerfile, match=fault):
        step(f"RUN --mount={flag} x")


def test_two_mounts_at_one_place() -> None:
    with pytest.raises(InvalidDockerfile, match="two mounts have the target /a"):
        step("RUN --mount=target=/a --mount=type=tmpfs,target=/a/ x")
    found = step("RUN --mount=type=ssh --mount=type=ssh,id=b x").mounts
    assert [mount.target for mount in found] == ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1"]


def test_whose_caches() -> None:
    scopes = [
        compute_scope(BuildOrder("/", tag, scope=scope))
        for tag, scope in (("a:1", ""), ("a:2", ""), ("host:5000/a", ""), ("host:5000/a:1", ""), ("a:1", "a"), ("", ""))
    ]
    assert scopes[0] == scopes[1] and scopes[2] == scopes[3] and len(set(scopes)) == 4


@pytest.mark.parametrize(
    "source",
    [
        "git@host:x", "git://host/x.git", "ssh://host/x", "$A.git#main:../..", "https://host/-x.git", "https://-h/x.git",
        "https://u:p@host/x.git", "https://host/x.git#-b", "https://host/x.git#a..b", "https://host/x.git#v:.git/hooks",
    ],
)  # fmt: skip
def test_hostile_git_repositories_are_refused(source: str) -> None:
    """Attack rows 56 and 57: nothing of a Dockerfile is taken for an option or leads out of a checkout."""
    order = BuildOrder("/context", "t", args={"A": "http://host/x"})
    with pytest.raises(InvalidDockerfile, match=r"https and http only|git URL|no branch|leads out"):
        dockerfile = parse_dockerfile(f"FROM scratch\nARG A\nADD {source} /x/\n", "Dockerfile")
        plan = compute_plan(dockerfile, order, HOST)
        state = StageState("Dockerfile", "\\", plan, order.args, create_scratch_config(HOST))
        for instruction in plan.stages[0].instructions:
            state.take(instruction, plan.stages[0])
