"""From a revision to what each app should be: pure, but for what the last good versions remember."""

from __future__ import annotations

from dataclasses import replace

from agent.controller.lastgood import LastGood
from agent.controller.port import AppFilesPort, RevisionPort
from agent.errors import Problem
from agent.plan.wants import DesiredApp
from agent.values import frozen


@frozen
class Target:
    """What one app should be. ``desired`` None: nobody knows, so nothing is touched. ``invalid`` says why a newer
    version is not used, ``warnings`` what of the version that was read is hardly meant."""

    desired: DesiredApp | None
    invalid: str = ""
    warnings: tuple[Problem, ...] = ()


def compute_targets(revision: RevisionPort, known: LastGood) -> dict[str, Target]:
    """Every app of a revision by name. The last good version of an invalid app stays in force; of two files that
    claim one name, the one that had it keeps it."""
    found: dict[str, Target] = {}
    for key in sorted(revision.apps, key=lambda key: (_is_newcomer(revision.apps[key], known), key)):
        files = revision.apps[key]
        if files.app is None:
            problems = "\n".join(str(problem) for problem in files.problems) or "the app cannot be read"
            desired = known.recall(key)
            _add(found, known.name_of(key) or key, Target(desired, problems, files.warnings))
            continue
        rival = found.get(files.app.name)
        if rival is not None:
            problem = f"{files.app.file}: app name {files.app.name} is taken by {_file_of(rival)}; set another name:"
            _refuse(found, key, files.app.name, rival, problem)
            continue
        found[files.app.name] = Target(known.accept(files, files.app), warnings=files.warnings)
    for key in known.keys:
        if key not in revision.apps:
            known.forget(key)
    return found


def _is_newcomer(files: AppFilesPort, known: LastGood) -> bool:
    return files.app is not None and known.name_of(files.key) != files.app.name


def _file_of(target: Target) -> str:
    return target.desired.app.file if target.desired is not None else "another file"


def _add(found: dict[str, Target], name: str, target: Target) -> None:
    if name in found:
        found[name] = replace(found[name], invalid=target.invalid)
    else:
        found[name] = target


def _refuse(found: dict[str, Target], key: str, name: str, rival: Target, problem: str) -> None:
    """The first app of a name is in force; the second is shown under its key, or, if that is the name, beside it."""
    if key != name and key not in found:
        found[key] = Target(None, problem)
    else:
        found[name] = replace(rival, invalid=problem)
