"""image: oci:PATH, docker-archive:PATH and dir:PATH."""

from __future__ import annotations

import pytest

from tests.unit.spec.spec_loading import FILE, load, problems_of

HERE = FILE.parent
FILES = {"web.tar": b"", "layout/index.json": b""}


def image(text: str, more: str = "") -> str:
    return f"services:\n  web:\n    image: '{text}'\n{more}"


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("oci:./layout", f"oci:{HERE}/layout"),
        ("oci:./layout:v1", f"oci:{HERE}/layout:v1"),
        ("docker-archive:./web.tar:shop/web:1", f"docker-archive:{HERE}/web.tar:shop/web:1"),
        ("dir:./layout/../layout", f"dir:{HERE}/layout"),
        ("oci:/elsewhere/layout:v1", "oci:/elsewhere/layout:v1"),
        ("dir:/elsewhere/root", "dir:/elsewhere/root"),
        ("oci:1.0", "oci:1.0"),
        ("oci:5000/app", "oci:5000/app"),
    ],
)
def test_paths_start_at_the_compose_file(text: str, resolved: str) -> None:
    assert load(image(text), FILES).services["web"].image == resolved


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("oci:./absent", "", "there is no such directory"),
        ("oci:../../outside", "", "outside of the state directory"),
        ("oci:layout/v1", "", "not an image reference"),
        ("dir:tree", "", "to mean a file begin its path with / or ./, as in dir:./tree"),
        ("oci:./layout:", "", "'oci:./layout:' is not an image reference: to mean a file write"),
        ("oci:./layout", "    build: .\n", "needs a name, not a file"),
        ("oci:./layout", "    pull_policy: never\n", "never pulled"),
    ],
)
def test_what_is_refused_has_its_place(text: str, more: str, said: str) -> None:
    found = problems_of(image(text, more), {**FILES, "Dockerfile": b"FROM scratch"})
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith("4:18: " if "never" in more else "3:12: ")
