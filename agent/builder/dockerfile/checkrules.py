"""The directive ``check`` and the names of the checks. Pure.

Source: docs.docker.com/reference/build-checks and docs.docker.com/reference/dockerfile (parser directives).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.values import frozen

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that takes the place of the directive."""

ALL = "all"
RULES = frozenset(
    {
        "ConsistentInstructionCasing",
        "CopyIgnoredFile",
        "ExposeInvalidFormat",
        "ExposeProtoCasing",
        "FromAsCasing",
        "FromPlatformFlagConstDisallowed",
        "InvalidDefaultArgInFrom",
        "InvalidDefinitionDescription",
        "JSONArgsRecommended",
        "LegacyKeyValueFormat",
        "MaintainerDeprecated",
        "MultipleInstructionsDisallowed",
        "NoEmptyContinuation",
        "RedundantTargetPlatform",
        "ReservedStageName",
        "SecretsUsedInArgOrEnv",
        "StageNameCasing",
        "UndefinedArgInFrom",
        "UndefinedVar",
        "WorkdirRelativePath",
    }
)
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
"""The checks that are made only when ``experimental`` names them."""
_ALWAYS_FAULTS = frozenset({"DuplicateStageName", "InvalidBaseImagePlatform"})
"""What these look for is refused here, whatever a directive says."""
_TRUTH = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


@frozen
class CheckOptions:
    """Which checks are left out, which ``experimental`` ones are not, and whether what they find is an error. ALL in a
    set stands for every name."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        """Whether a check is made."""
        asked = rule not in EXPERIMENTAL or bool({rule, ALL} & self.experimental)
        return asked and not {rule, ALL} & self.skip


ALL_CHECKS = CheckOptions()


@dataclass(frozen=True, order=True)
class Finding:
    """What a check has found, and where."""

    line: int
    column: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message} (line {self.line})"


def parse_check_options(value: str) -> CheckOptions:
    """Read ``skip=NAME,...`` or ``skip=all``, the same of ``experimental``, and ``error=true``, in any order with ;
    between. Raises ValueError."""
    fields: dict[str, str] = {}
    for part in value.split(";"):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or name not in ("skip", "experimental", "error"):
            known = "skip=NAME,..., skip=all, experimental=NAME,..., experimental=all, error=true"
            raise ValueError(f"check: {part.strip()[:80]!r} is none of {known}")
        if name in fields:
            raise ValueError(f"check: {name} is given twice")
        fields[name] = text
    error = _TRUTH.get(fields.get("error", "false").lower())
    if error is None:
        raise ValueError(f"check: error is true or false, not {fields['error'][:80]!r}")
    return CheckOptions(_read_names(fields.get("skip", "")), _read_names(fields.get("experimental", "")), error)


def _read_names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def find_unknown_rules(options: CheckOptions) -> tuple[str, ...]:
    """The names in ``skip`` and ``experimental`` that no check has."""
    return tuple(sorted((options.skip | options.experimental) - RULES - _ALWAYS_FAULTS - {ALL}))


def choose_options(directive: CheckOptions, args: Mapping[str, str]) -> CheckOptions:
    """The build argument's options where it is given, else the directive's. Raises ValueError."""
    given = args.get(CHECK_ARG, "").strip()
    return parse_check_options(given) if given else directive
