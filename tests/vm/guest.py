"""A throw-away Debian guest under QEMU's own CPU emulation: systemd, unified cgroup v2, reboots, power cuts.

``make_image`` debootstraps a base disk once (two minutes; kept in build/vm, made again when this file changes);
``boot_guest`` runs a script in a copy-on-write guest that may ask for reboots or for the power to be cut, and yields
what it prints.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scenario.boots import POWER_CUT, REBOOT

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv,dbus,udev,kmod,procps,iproute2,python3,python3-venv,busybox-static,tini,libnftables1,libseccomp2"
)
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "systemd-timesyncd.service dpkg-db-backup.timer serial-getty@ttyS0.service getty@tty1.service"
)
MACHINE = (
    "-accel tcg,thread=multi -cpu max -smp 2 -m 2048 -M q35 "
    "-display none -serial stdio -nic none -device virtio-rng-pci"
)
KERNEL = "console=ttyS0 root=/dev/vda rw quiet mitigations=off panic=-1 systemd.show_status=0"

UNIT = """\
[Unit]
Description=Runs the test of this boot
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/guest-test
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=graphical.target multi-user.target
"""
RUNNER = f"""\
#!/bin/sh
boot=$(($(cat /boot-count 2>/dev/null || echo 0) + 1)); echo $boot >/boot-count; sync
ip link set lo up; mkdir -p /test
[ $boot -gt 1 ] || tar -C /test -xf /dev/vdb
cd /test && sh ./run.sh $boot; result=$?
echo "GUEST boot $boot result $result"
[ $result = {POWER_CUT} ] && {{ echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger; sleep 60; }}
sync
[ $result = {REBOOT} ] && exec systemctl --no-block reboot
exec systemctl --no-block poweroff
"""


def make_image(directory: Path) -> None:
    """Kernel, initrd and base disk in ``directory``; nothing to do when they are there and of this recipe."""
    recipe, made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), directory / "recipe"
    if made_by.exists() and made_by.read_text() == recipe:
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    root = directory / "rootfs"
    print("making the guest's image, once", flush=True)
    _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    _run("chroot", str(root), "apt-get", "update", "-qq")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "linux-image-cloud-amd64"]
    _run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *install)
    _configure(root)
    version = max((root / "lib/modules").iterdir()).name
    shutil.copy(root / "boot" / f"vmlinuz-{version}", directory / "vmlinuz")
    _make_initrd(directory, root / "lib/modules" / version)
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), "-L", "root", str(directory / "base.ext4"), "4G")
    shutil.rmtree(root)
    made_by.write_text(recipe)


def _configure(root: Path) -> None:
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    for name in MASKED.split():
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    (root / "etc/systemd/system/guest-test.service").write_text(UNIT)
    runner = root / "usr/local/sbin/guest-test"
    runner.write_text(RUNNER)
    runner.chmod(0o755)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "guest-test.service").symlink_to("../guest-test.service")


def _make_initrd(directory: Path, modules: Path) -> None:
    tree = directory / "initrd"
    for name in ("bin", "m", "proc", "sys", "dev", "r"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for name in MODULES:
        for found in modules.rglob(f"{name}.ko*"):
            unpack = ["xz", "-dc"] if found.suffix == ".xz" else ["cat"]
            data = subprocess.run([*unpack, found], capture_output=True, check=True).stdout
            (tree / "m" / f"{name}.ko").write_bytes(data)
    script = ["#!/bin/busybox sh", "b=/bin/busybox", "$b mount -t proc proc /proc", "$b mount -t sysfs sys /sys"]
    script += ["$b mount -t devtmpfs dev /dev"]
    script += [f"[ ! -e /m/{name}.ko ] || $b insmod /m/{name}.ko" for name in MODULES]
    script += ["i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do $b sleep 0.1; i=$((i+1)); done"]
    script += ["$b mount -t ext4 /dev/vda /r || $b poweroff -f", "$b umount /proc /sys; $b mount --move /dev /r/dev"]
    (tree / "init").write_text("\n".join([*script, "exec $b switch_root /r /sbin/init", ""]))
    (tree / "init").chmod(0o755)
    _run("sh", "-c", f"cd {tree} && find . | cpio -o -H newc 2>/dev/null | gzip -1 >{directory}/initrd.gz")
    shutil.rmtree(tree)


def boot_guest(directory: Path, payload: Path, seconds: int = 900) -> Iterator[str]:
    """Run ``payload`` (a tar with run.sh) in a fresh guest; yields its console line by line until it powers off."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        disk, base = f"{scratch}/disk.qcow2", str((directory / "base.ext4").resolve())
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk)
        machine = ["qemu-system-x86_64", *MACHINE.split()]
        machine += ["-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.gz"), "-append", KERNEL]
        machine += ["-drive", f"file={disk},if=virtio,format=qcow2"]
        machine += ["-drive", f"file={payload},if=virtio,format=raw,readonly=on"]
        command = ["timeout", "-k", "5", str(seconds), *machine]
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert guest.stdout is not None
        try:
            for line in guest.stdout:
                yield line.decode(errors="replace").rstrip("\r\n")
        finally:
            guest.terminate()
            guest.wait()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
