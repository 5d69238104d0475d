"""The house rules, held by machine: style, types, import floors, sizes and names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grouping import HostFilesTogether

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "agent").rglob("*.py"))
EVERY_PYTHON_FILE = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
FILE_LIMIT, FUNCTION_LIMIT, PARAMETER_LIMIT = 400, 60, 6
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager"}
ASYNC_FLOORS = {"api", "controller", "source", "daemon"}
PURE_FLOORS = ("plan", "spec", "oci")
IMPURE_MODULES = {"time", "random", "secrets", "socket", "subprocess", "threading", "asyncio", "uuid"}


def run_tool(*arguments: str) -> None:
    run = subprocess.run(
        [str(Path(sys.executable).parent / arguments[0]), *arguments[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize(
    "arguments",
    [
        ("ruff", "check", "agent", "tests"),
        ("ruff", "format", "--check", "agent", "tests"),
        ("mypy",),
        ("lint-imports",),
    ],
    ids=["ruff", "format", "mypy", "import-linter"],
)
@pytest.mark.timeout(500)
def test_tool_is_content(arguments: tuple[str, ...]) -> None:
    run_tool(*arguments)


def test_files_are_small() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in EVERY_PYTHON_FILE}
    assert {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > FILE_LIMIT} == {}


def test_functions_are_small() -> None:
    large = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in functions_of(path)
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LIMIT
    ]
    assert large == []


def test_parameters_are_few() -> None:
    many = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in functions_of(path)
        if len([*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs])
        - (bool(function.args.args) and function.args.args[0].arg in ("self", "cls"))
        > PARAMETER_LIMIT
        and "'command'"
        not in ast.dump(ast.Module(body=[ast.Expr(d) for d in function.decorator_list], type_ignores=[]))
    ]
    assert many == []


def test_names_say_something() -> None:
    assert [str(path) for path in SOURCES if path.stem in FORBIDDEN_NAMES] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_async_stays_on_top() -> None:
    below = [
        f"{path.relative_to(ROOT)}:{function.lineno}"
        for path in SOURCES
        if path.relative_to(ROOT / "agent").parts[0] not in ASYNC_FLOORS
        for function in functions_of(path)
        if isinstance(function, ast.AsyncFunctionDef)
    ]
    assert below == []


def test_pure_floors_are_pure() -> None:
    impure = []
    for floor in PURE_FLOORS:
        for path in (ROOT / "agent" / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                impure += [f"{path.relative_to(ROOT)}: {name}" for name in names if name in IMPURE_MODULES]
    assert impure == []


@pytest.mark.parametrize("program", ["agent.runtime.keeper.main", "agent.network.nameserver.main"])
def test_small_processes_import_only_the_standard_library(program: str) -> None:
    """Keeper and name server must stay small, and start where no site-packages exist (``-S``)."""
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import {program}\n"
        "own = {'agent', '__main__'}; std = sys.stdlib_module_names\n"
        "print([n for n in sys.modules if n.split('.')[0] not in own and n.split('.')[0] not in std])"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_a_file_of_host_tests_stays_on_one_worker() -> None:
    tests = [f"tests/{file}.py::{name}" for file in ("host/test_a", "unit/test_b") for name in ("x[1]", "y")]
    scopes = [HostFilesTogether._split_scope(HostFilesTogether.__new__(HostFilesTogether), test) for test in tests]
    assert [scopes.index(scope) for scope in scopes] == [0, 0, 2, 3]
