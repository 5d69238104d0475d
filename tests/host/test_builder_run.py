"""RUN in real containers: what a step sees, what it leaves in the image, and that nothing of it stays on the host."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.builder.dockerfile.state import DEFAULT_PATH
from agent.builder.faults import BuildCancelled, BuildFailed
from agent.builder.order import BuildProgress
from agent.builder.run.stepoutput import TAIL_LINES
from agent.image.storage.records import ImageEntry
from tests.host.agents import eventually
from tests.host.builderlab import FROM_CONTEXT, FROM_HOST, Lab, open_builder_lab

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_builder_lab(tmp_path) as opened:
        opened.add_rootfs()
        yield opened


def run(lab: Lab, lines: str, **fields: object) -> ImageEntry:
    return lab.build(FROM_CONTEXT + lines + "\n", **fields)  # type: ignore[arg-type]


def test_a_root_out_of_one_static_binary(lab: Lab) -> None:
    entry = lab.build(FROM_HOST + "RUN mkdir /srv && echo hello > /srv/index.html\n")
    assert lab.read(entry, "srv/index.html") == b"hello\n"
    assert set(lab.layer(entry)) == {"srv", "srv/index.html"}
    links = lab.layer(entry, 1)
    assert links["bin/sh"].issym() and set(links) - {"bin"} == {name for name in links if name.startswith("bin/")}
    assert {info.mtime for index in range(3) for info in lab.layer(entry, index).values()} == {0}
    lab.check_clean()


def test_what_a_stage_has_and_no_copy_takes(lab: Lab) -> None:
    """A .dockerignore says nothing of a stage: --exclude does."""
    made = FROM_HOST.replace("FROM scratch", "FROM scratch AS s") + "RUN mkdir /d && mkfifo /d/p && echo x > /d/f\n"
    with pytest.raises(BuildFailed, match=r"'p' in stage 0 is a FIFO.*--exclude") as caught:
        lab.build(f"{made}FROM scratch\nCOPY --from=s /d /d\n")
    assert ".dockerignore" not in str(caught.value)
    assert set(lab.layer(lab.build(f"{made}FROM scratch\nCOPY --from=s --exclude=p /d /d\n"))) == {"d", "d/f"}


def test_what_a_step_changes_is_its_layer(lab: Lab) -> None:
    old = lab.context / "rootfs" / "old"
    (old / "emptied" / "sub").mkdir(parents=True)
    (old / "gone").mkdir()
    (old / "kept").write_text("kept")
    entry = run(
        lab,
        "RUN rm -r /old/gone /old/emptied && mkdir -m 700 /old/emptied && echo x > /old/new && touch -d @77 /old/past"
        " && ln /old/new /old/twin && ln -s /nowhere /old/link && chmod 600 /old/kept",
    )
    assert set(lab.layer(entry)) == {
        "old", "old/.wh.gone", "old/emptied", "old/emptied/.wh..wh..opq", "old/new", "old/twin", "old/link", "old/past",
        "old/kept",
    }  # fmt: skip
    assert lab.layer(entry)["old/past"].mtime == 77
    assert lab.layer(entry)["old/new"].mtime == 0
    assert lab.layer(entry)["old/emptied"].mode == 0o700


def test_mount_points_are_not_in_the_layer(lab: Lab) -> None:
    entry = run(lab, "RUN cat /etc/hosts /etc/hostname /etc/resolv.conf && ls /proc/self /sys /dev && true")
    assert lab.layer(entry) == {}
    assert "build" in lab.output and any(line.startswith("nameserver ") for line in lab.output)
    touched = run(lab, "RUN echo mine > /etc/mine")
    assert set(lab.layer(touched)) == {"etc", "etc/mine"}
    own = run(lab, "RUN mkdir -p /run/x && echo data > /run/x/hosts")
    assert set(lab.layer(own)) == {"run", "run/x", "run/x/hosts"}


def test_only_documented_variables_are_seen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack row 60."""
    for number in range(10):
        monkeypatch.setenv(f"CANARY_{number}", "leaked")
    for name in ("HTTP_PROXY", "LD_PRELOAD", "PYTHONPATH_X", "TERM"):
        monkeypatch.setenv(name, "leaked")
    run(lab, "ENV A=1\nARG B=2\nARG C\nUSER app\nRUN env", args={"C": "3", "D": "4", "https_proxy": "p"})
    seen = dict(line.split("=", 1) for line in lab.output)
    seen.pop("PWD", None), seen.pop("SHLVL", None), seen.pop("OLDPWD", None)
    assert seen == {
        "A": "1", "B": "2", "C": "3", "PATH": DEFAULT_PATH, "HOME": "/home/app", "HOSTNAME": "build",
        "https_proxy": "p",
    }  # fmt: skip
    assert "leaked" not in "".join(lab.output)


def test_user_directory_and_rights(lab: Lab) -> None:
    run(lab, "WORKDIR /made/here\nRUN ls -d $PWD; id\nUSER app\nRUN id -G; cat /proc/self/status")
    assert "/made/here" in lab.output and "uid=0(root) gid=0(root)" in " ".join(lab.output)
    assert "1001 2000" in lab.output
    status = dict(line.split(":\t", 1) for line in lab.output if ":\t" in line)
    assert status["Seccomp"] == "2" and int(status["CapInh"], 16) == int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0xA80425FB
    for user in ("nobody", "1a", "99999999999", "app:none"):
        with pytest.raises(BuildFailed, match="Dockerfile:4"):
            run(lab, f"USER {user}\nRUN true")


def test_a_step_is_an_ordinary_container(lab: Lab, tmp_path: Path) -> None:
    """Attack rows 2, 14, 16: no host descriptors, no host processes, no privilege."""
    decoy = tmp_path / "decoy"
    decoy.write_text("decoy")
    commands = (
        "RUN ls /proc/self/fd | cat > /fds",
        "for p in /proc/[0-9]*; do echo $p; done > /pids",
        f"cat /proc/1/root{decoy}",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sysrq-trigger",
        "mount -t tmpfs none /tmp && echo mounted",
        f"cat /proc/1/cwd/../..{decoy}",
        "echo end",
    )
    pattern = Path("/proc/sys/kernel/core_pattern").read_bytes()
    entry = run(lab, "; ".join(commands))
    assert "end" in lab.output and not {"decoy", "mounted"} & set(lab.output)
    assert {int(number) for number in lab.read(entry, "fds").split()} <= {0, 1, 2, 3}
    assert len(lab.read(entry, "pids").split()) <= 3
    assert Path("/proc/sys/kernel/core_pattern").read_bytes() == pattern
    for cwd in ("/proc/self/fd/7", "/proc/1/cwd"):
        with pytest.raises(BuildFailed):
            run(lab, f"WORKDIR {cwd}\nRUN pwd")
    lab.check_clean()


def test_image_links_where_things_are_mounted(lab: Lab, tmp_path: Path) -> None:
    """Attack rows 3, 8, 12, 55: nothing is made or removed on the host."""
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        (decoy / name).write_text("untouched")
    before = {path: (path.stat().st_mtime_ns, path.read_text()) for path in decoy.iterdir()}
    etc = lab.context / "rootfs" / "etc"
    (etc / "hosts").symlink_to(decoy / "hosts")
    (etc / "hostname").symlink_to("../../../../../.." + str(decoy / "hostname"))
    (etc / "resolv.conf").symlink_to("../run/not/there/resolv.conf")
    entry = run(lab, "RUN cat /etc/hosts && echo x > /etc/hosts; cat /etc/resolv.conf; true")
    assert any("localhost" in line for line in lab.output)
    assert lab.layer(entry) == {}
    for name, target in (("proc", "/tmp/x"), ("sys", str(decoy)), ("dev", "../../.." + str(decoy))):
        place = lab.context / "rootfs" / name
        place.symlink_to(target)
        try:
            run(lab, f"RUN echo through-{name}")
        except BuildFailed:
            pass
        place.unlink()
    assert {path: (path.stat().st_mtime_ns, path.read_text()) for path in decoy.iterdir()} == before
    lab.check_clean()


def test_a_step_that_moves_its_mount_points_about(lab: Lab, tmp_path: Path) -> None:
    """The step's own doing is kept, and no more; the next step runs as well."""
    entry = run(
        lab,
        "RUN mv /etc /etc2 2>/dev/null; ln -s /tmp /etc 2>/dev/null; rm -rf /proc/x /run; ln -s /bin /run; echo done\n"
        "RUN cat /etc/hosts >/dev/null; echo again",
    )
    assert lab.output[-1] == "again" and entry.id
    assert not any(name.startswith(("proc", "sys", "dev")) for name in lab.layer(entry, 1))
    lab.check_clean()


def test_a_failing_step_says_where_and_how(lab: Lab) -> None:
    with pytest.raises(BuildFailed) as caught:
        run(lab, 'RUN echo before; echo "what went wrong" >&2; exit 42')
    error = caught.value
    assert error.exit_code == 42 and error.place.endswith("Dockerfile:3:1")
    assert error.step.startswith("RUN echo before") and "what went wrong" in error.output
    assert "exit code 42" in str(error) and "what went wrong" in str(error)
    assert error.retry_after, "what it missed may be there later"
    with pytest.raises(BuildFailed) as caught:
        run(lab, 'RUN ["/no/such/program"]')
    assert (caught.value.exit_code, caught.value.retry_after) == (127, None)
    assert lab.images.find("test:1") is None
    lab.check_clean()


def test_a_step_that_is_killed_from_outside(lab: Lab) -> None:
    def kill() -> None:
        eventually(lambda: "begun" in lab.output, what="the step")
        (state,) = (state for state in lab.keeper.states() if state.running)
        lab.keeper.kill(state.id, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(BuildFailed, match="signal 9") as caught:
        run(lab, "RUN echo begun; exec sleep 1000")
    thread.join()
    assert caught.value.exit_code is None
    lab.check_clean()


def test_output_is_told_and_bounded(lab: Lab) -> None:
    with pytest.raises(BuildFailed) as caught:
        run(lab, "RUN i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1")
    assert len(lab.output) == 3000
    assert caught.value.output.splitlines() == [f"line {number}" for number in range(3000 - TAIL_LINES, 3000)]


def test_packing_a_huge_sparse_file_is_cancelled(lab: Lab) -> None:
    cancel = threading.Event()
    size = min(shutil.disk_usage(lab.root).free >> 31, 60)  # half of what is free: more is refused before it is packed

    def note(progress: BuildProgress) -> None:
        if progress.phase == "output":
            threading.Timer(0.5, cancel.set).start()

    with pytest.raises(BuildCancelled):
        config = lab.config(FROM_CONTEXT + f"RUN busybox truncate -s {size}G /sparse && echo made\n")
        lab.builder.build(config, progress=note, cancel=cancel)
    lab.check_clean()


def test_a_step_that_digs_deep_leaves_nothing(lab: Lab) -> None:
    """Its directories go, however many lie in one another: they would be in the way at the next start too."""
    with pytest.raises(BuildFailed, match="nests directories deeper"):
        run(lab, "RUN i=0; while [ $i -lt 1010 ]; do mkdir d && cd d; i=$((i+1)); done")
    lab.check_clean()


def test_a_step_ends_with_its_first_process(lab: Lab) -> None:
    run(lab, "RUN sleep 1000 & echo started")
    assert lab.output == ["started"]
    lab.check_clean()


def test_a_cancelled_step_leaves_nothing(lab: Lab) -> None:
    cancel = threading.Event()
    sleeping = FROM_CONTEXT + "RUN echo asleep; sleep 1000 & sleep 1000\n"
    failures: list[BaseException] = []

    def build() -> None:
        try:
            lab.build(sleeping, cancel)
        except BuildCancelled as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    eventually(lambda: "asleep" in lab.output, what="the step")
    (state,) = (state for state in lab.keeper.states() if state.running)
    assert lab.observe_leftovers()["networks"] == ["holdfast-build"]
    assert lab.observe_leftovers()["cgroups"] != []
    cancel.set()
    thread.join(60)
    assert not thread.is_alive() and len(failures) == 1
    assert not Path(f"/proc/{state.pid}").exists()
    assert lab.images.find("test:1") is None
    lab.check_clean()


CRASHED = """
import sys
from pathlib import Path
from agent.builder.order import SecretSource
from tests.host.builderlab import FROM_CONTEXT, Lab
lab = Lab(Path(sys.argv[1]))
lab.add_rootfs()
mounts = "--mount=type=secret,id=s --mount=from=0,target=/v --mount=from=0,target=/w,rw --mount=type=cache,target=/c"
secrets = {"s": SecretSource(value=b"planted-in-memory")}
lab.build(2 * FROM_CONTEXT + f"RUN {mounts} echo asleep; sleep 1000\\n", secrets=secrets)
"""


def test_what_a_killed_agent_left_is_swept(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CRASHED, str(tmp_path)], cwd=ROOT)
    try:
        logs = "data/builds/build-*/logs/container.log"
        eventually(lambda: any(b"asleep" in path.read_bytes() for path in tmp_path.glob(logs)), what="the step")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if f"{tmp_path}/" in line]
    assert len([path for path in mounts if "/builds/build-" in path]) == 3
    (tmp_path / "context" / "Dockerfile").unlink()
    for path in ("context", "tools"):
        (tmp_path / path).rename(tmp_path / f"old-{path}")
    lab = Lab(tmp_path)
    try:
        lab.check_clean()
        assert lab.keeper.states() == ()
    finally:
        lab.cgroups.down()
        lab.close()


def test_the_cache_knows_what_a_step_depends_on(lab: Lab) -> None:
    first = run(lab, "ENV A=1\nRUN echo $A > /a")
    assert run(lab, "ENV A=1\nLABEL x=y\nRUN echo $A > /a\nCMD z").id != first.id
    assert lab.cached == ["COPY rootfs/ /", "RUN echo $A > /a"]
    for lines in (
        "ENV A=2\nRUN echo $A > /a", "ENV A=1\nUSER 0:5\nRUN echo $A > /a", "ENV A=1\nWORKDIR /tmp\nRUN echo $A > /a",
        "ENV A=1\nARG B=x\nRUN echo $A > /a", 'ENV A=1\nRUN ["/bin/sh", "-c", "echo $A >  /a"]',
    ):  # fmt: skip
        run(lab, lines)
        assert lab.cached == ["COPY rootfs/ /"], lines
    run(lab, "ENV A=1\nRUN echo $A > /a", args={"http_proxy": "p"})
    assert lab.cached == ["COPY rootfs/ /", "RUN echo $A > /a"]
    with pytest.raises(BuildFailed):
        run(lab, "RUN exit 3")
    with pytest.raises(BuildFailed):
        run(lab, "RUN exit 3")


def test_the_same_step_gives_the_same_layer(lab: Lab) -> None:
    text = "RUN mkdir /d && echo x > /d/f && ln -s f /d/l && rm /tmp/nothing; true"
    first = run(lab, text)
    lab.builder._cache.forget(-1)
    assert run(lab, text).id == first.id
    assert lab.cached == []


def test_a_step_has_a_network_with_a_way_out(lab: Lab) -> None:
    run(lab, "RUN ip -4 addr show eth0; ip route; ip -6 addr")
    text = "\n".join(lab.output)
    assert "inet 10." in text or "inet 172." in text or "inet 192." in text
    assert "default via" in text and "inet6 fe80" not in text
    lab.check_clean()


def test_builds_at_once_share_the_network(lab: Lab) -> None:
    orders = []
    for number in range(4):
        (lab.context / f"Dockerfile.{number}").write_text(FROM_CONTEXT + f"RUN sleep 0.{number}; echo {number} > /n\n")
        config = lab.config("FROM scratch\n", tag=f"many:{number}")
        orders.append(type(config)(config.context, config.tag, f"Dockerfile.{number}"))
    found: dict[int, ImageEntry] = {}
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: lab.builder.build(orders[n])})) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: lab.read(entry, "n") for number, entry in found.items()} == {n: b"%d\n" % n for n in range(4)}
    lab.check_clean()


def test_the_same_step_of_two_builds_is_done_once(lab: Lab) -> None:
    """As with services that are built from one Dockerfile to different targets."""
    text = (
        FROM_CONTEXT.replace("scratch", "scratch AS base")
        + "RUN sleep 0.3; echo once\nFROM base AS a\nFROM base AS b\n"
    )
    config = lab.config(text)
    said: list[str] = []
    targets = [replace(config, target=target, tag=f"{target}:1") for target in ("a", "b")]
    threads = [
        threading.Thread(target=lambda order=order: lab.builder.build(order, progress=lambda p: said.append(p.text)))
        for order in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("once") == 1
    assert lab.images.find("a:1") == lab.images.find("b:1") is not None


def test_output_cannot_command_a_terminal(lab: Lab) -> None:
    with pytest.raises(BuildFailed) as caught:
        run(lab, r"RUN printf 'a\033[31mred\r\n\tb\303\251\n'; exit 1")
    assert caught.value.output == "a?[31mred\n\tbé"
