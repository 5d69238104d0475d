from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import Stalled
from agent.runtime import seccomp
from agent.runtime.seccomp import SeccompStore, render_profile
from agent.runtime.seccompfilter import compile_profile, read_host
from agent.runtime.seccompprofile import Host, compute_relevant, parse_profile, read_default, resolve_profile

HOST = Host("x86_64", "SCMP_ARCH_X86_64", "amd64", (6, 1))


def build(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **fields: Any) -> str:
    return json.dumps({"defaultAction": default, "syscalls": list(rules), **fields})


def allow(*names: str, **fields: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **fields}


def argument(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **fields}


def names_for(text: str, *capabilities: str, host: Host = HOST) -> list[str]:
    resolved = resolve_profile(parse_profile(text), capabilities, host)
    return [name for rule in resolved.rules for name in rule.names]


def compile_text(text: str) -> None:
    compile_profile(resolve_profile(parse_profile(text), (), read_host()))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "document"),
        ("[]", "document"),
        ("[" * 100_000, "document"),
        ("\ud800", "document"),
        ("{}", "defaultAction: is missing"),
        (build(default="SCMP_ACT_NOTIFY"), "defaultAction"),
        (build(default=None), "defaultAction"),  # type: ignore[arg-type]
        (build(defaultErrnoRet="EPERM"), "defaultErrnoRet"),
        (build(defaultErrnoRet=4096), "defaultErrnoRet"),
        (build(defaultErrnoRet=1, default="SCMP_ACT_ALLOW"), "defaultErrnoRet: SCMP_ACT_ALLOW returns no"),
        (build(listenerPath="/x"), "listenerPath: is not a known or supported key"),
        (build(flags=["SECCOMP_FILTER_FLAG_LOG"]), "flags[0]"),
        (build(architectures=["a"], archMap=[{"architecture": "b"}]), "both architectures and archMap"),
        (build(archMap=[{"subArchitectures": []}]), "archMap[0].architecture: is missing"),
        (build(allow("read"), {"names": ["x"]}), "syscalls[1].action: is missing"),
        (build({"names": ["x"], "action": "allow"}), "syscalls[0].action"),
        (build({"names": "x", "action": "SCMP_ACT_ALLOW"}), "syscalls[0].names"),
        (build(allow("a", "b c")), "syscalls[0].names[1]"),
        (build(allow("a", 5)), "syscalls[0].names[1]"),  # type: ignore[arg-type]
        (build(allow("a", name="b")), "syscalls[0]: both name and names"),
        (build(allow("a", errnoRet=5)), "syscalls[0].errnoRet: SCMP_ACT_ALLOW returns no"),
        (build(allow("a", include={})), "syscalls[0].include: is not a known"),
        (build(allow("a", includes={"minKernel": "new"})), "syscalls[0].includes.minKernel"),
        (build(allow("a", args=[argument(), argument(index=6)])), "syscalls[0].args[1].index"),
        (build(allow("a", args=[argument(index=-1)])), "syscalls[0].args[0].index"),
        (build(allow("a", args=[argument(index=True)])), "syscalls[0].args[0].index"),
        (build(allow("a", args=[argument(value=1 << 64)])), "syscalls[0].args[0].value"),
        (build(allow("a", args=[argument(value=-1)])), "syscalls[0].args[0].value"),
        (build(allow("a", args=[argument(op="==")])), "syscalls[0].args[0].op"),
        (build(allow("a", args=[{"index": 0, "op": "SCMP_CMP_EQ"}])), "syscalls[0].args[0].value: is missing"),
        (build(allow("a"), comment="x" * (1 << 20)), "longer than"),
        (build(allow("read"), architectures=["SCMP_ARCH_VAX"]), "architectures[0]: SCMP_ARCH_VAX"),
        (build(allow("read"), architectures=["SCMP_ARCH_X86", "SCMP_ARCH_S390X"]), "architectures[1]: SCMP_ARCH_S390X"),
        (build({"names": ["nonsense"], "action": "SCMP_ACT_ERRNO"}, default="SCMP_ACT_ALLOW"), "names[0]: libseccomp"),
    ],
)
def test_faults_name_the_field(text: str, field: str) -> None:
    with pytest.raises(Stalled) as caught:
        compile_text(text)
    assert caught.value.reason == "InvalidSeccompProfile"
    assert field in caught.value.message
    assert caught.value.hint
    assert len(str(caught.value)) < 700


def test_unknown_calls_are_passed_over_where_that_is_stricter() -> None:
    compile_text(build(allow("read", "nonsense")))
    compile_text(build({"names": ["nonsense"], "action": "SCMP_ACT_KILL"}))


def test_older_spellings_are_taken() -> None:
    text = build(
        {"name": "read", "action": "SCMP_ACT_ALLOW", "args": None, "comment": "", "includes": {}, "excludes": {}},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": None, "excludes": None},
        defaultErrnoRet=None,
        architectures=None,
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None}],
    )
    assert names_for(text) == ["read", "write"]
    compile_text(text)


def test_includes_and_excludes() -> None:
    text = build(
        allow("both", includes={"caps": ["CAP_A", "CAP_B"]}),
        allow("neither", excludes={"caps": ["CAP_A", "CAP_B"]}),
        allow("here", includes={"arches": ["x32", "amd64"]}),
        allow("elsewhere", includes={"arches": ["arm64"]}),
        allow("not-here".replace("-", "_"), excludes={"arches": ["amd64"]}),
        allow("since", includes={"minKernel": "6.1"}),
        allow("later", includes={"minKernel": "6.10"}),
        allow("until", excludes={"minKernel": "4.8"}),
        allow("mixed", includes={"caps": ["CAP_A"], "minKernel": "4.8"}, excludes={"caps": ["CAP_C"]}),
    )
    assert names_for(text) == ["neither", "here", "since"]
    assert names_for(text, "CAP_A") == ["here", "since", "mixed"]
    assert names_for(text, "CAP_A", "CAP_B", "CAP_C") == ["both", "here", "since"]
    arm = Host("aarch64", "SCMP_ARCH_AARCH64", "arm64", (4, 7))
    assert names_for(text, host=arm) == ["neither", "elsewhere", "not_here", "until"]
    assert compute_relevant(parse_profile(text), ["CAP_A", "CAP_C", "CAP_Z"]) == {"CAP_A", "CAP_C"}


def test_default_profile_is_dockers() -> None:
    profile = parse_profile(read_default())
    resolved = resolve_profile(profile, (), HOST)
    assert resolved.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
    assert (resolved.default_action, resolved.default_errno) == ("SCMP_ACT_ERRNO", 1)
    names = {name for rule in resolved.rules for name in rule.names}
    assert {"read", "socketcall", "clone3", "arch_prctl"} <= names
    assert not {"mount", "bpf", "keyctl", "chroot", "io_uring_setup"} & names
    assert {"mount", "bpf"} <= set(names_for(read_default(), "CAP_SYS_ADMIN"))


def test_rendered_for_an_oci_runtime() -> None:
    text = build(
        allow("read", args=[argument(valueTwo=3, op="SCMP_CMP_MASKED_EQ")]),
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
        allow("bpf", includes={"caps": ["CAP_BPF"]}),
        defaultErrnoRet=38,
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    )
    assert render_profile(text, ["CAP_BPF"]) == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {
                "names": ["read"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 1, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}],
            },
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW"},
        ],
    }
    assert render_profile("unconfined", ()) is None
    rendered = json.dumps(render_profile("default", ["CAP_SYS_ADMIN"]))
    compile_text(rendered)  # what is rendered is a profile again


def test_store_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    original = seccomp.compile_profile
    monkeypatch.setattr(seccomp, "compile_profile", lambda resolved: compiled.append(1) or original(resolved))
    store = SeccompStore(tmp_path / "filters")
    assert store.filter("unconfined", ()) is None
    path = store.filter("default", ["CAP_KILL"])
    assert path is not None
    assert path == store.filter("default", ["CAP_CHOWN", "CAP_KILL"])
    assert path == SeccompStore(tmp_path / "filters").filter("default", ())
    assert len(compiled) == 1
    other = store.filter("default", ["CAP_SYS_ADMIN"])
    assert other not in (path, None)
    assert other == store.filter(read_default(), ["CAP_SYS_ADMIN", "CAP_KILL"])
    assert len(compiled) == 2
    path.unlink()
    assert store.filter("default", ()) == path
    assert path.exists()
    assert {entry.suffix for entry in path.parent.iterdir()} == {".bpf"}
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_bad_profile_leaves_nothing(tmp_path: Path) -> None:
    store = SeccompStore(tmp_path / "filters")
    with pytest.raises(Stalled):
        store.filter(build({"names": ["nonsense"], "action": "SCMP_ACT_KILL"}, default="SCMP_ACT_ALLOW"), ())
    assert not (tmp_path / "filters").exists() or not list((tmp_path / "filters").iterdir())
