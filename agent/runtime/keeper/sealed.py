"""Running the keeper from a copy of the interpreter that nobody can write to.

Law: the keeper's own executable is a detached mount, read-only and, once it runs, not executable. So the
/proc/PID/exe of a process on its way into a container, or a program ``#!/proc/self/exe`` in an image, leads to
nothing that could be written or run (attack row 1, CVE-2019-5736).
"""

from __future__ import annotations

import os
import sys

from agent.kernel import mounts as m

_BOOT = "import sys; sys.path.insert(0, {root!r}); from agent.runtime.keeper.main import main; main({options!r})"


def find_package_root() -> str:
    """The directory that holds the ``agent`` package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def compute_command(python: str, root: str, options: dict[str, object]) -> list[str]:
    """The arguments of a keeper: no site, no environment, UTF-8, no bytecode written."""
    code = _BOOT.format(root=root, options=options)
    return [python, "-I", "-S", "-B", "-X", "utf8", "-c", code]


def execute_sealed(python: str, root: str, options: dict[str, object]) -> None:
    """Become a keeper in this very process. Returns never; raises OSError."""
    python = os.path.realpath(python or sys.executable)
    image = m.clone_mount(python)
    m.set_attributes(image, m.ATTR_RDONLY | m.ATTR_NOSUID | m.ATTR_NODEV, propagation=m.MS_PRIVATE)
    os.set_inheritable(image, True)
    try:
        command = compute_command(python, root or find_package_root(), {**options, "image": image})
        os.execve(image, command, {"PATH": os.defpath, "LC_ALL": "C.UTF-8"})
    finally:
        os.close(image)


def close_image(image: int) -> None:
    """In the new keeper: forbid any further execution of the sealed interpreter, and let go of its descriptor."""
    m.set_attributes(image, m.ATTR_NOEXEC)
    os.close(image)
