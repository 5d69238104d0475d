"""Files of NAME=value lines: ``.env`` and ``env_file``, as python-dotenv reads them, variables as Compose has them."""

from __future__ import annotations

import io
from collections.abc import Mapping

from dotenv.parser import Binding, parse_stream

from agent.spec.decode import decode_text
from agent.spec.interpolate import InterpolationError, Interpolator
from agent.spec.tree import Mark, Problems


def parse_environment(data: bytes, file: str, problems: Problems, outer: Mapping[str, str]) -> dict[str, str]:
    """The variables of a file; later lines see earlier ones, and ``outer`` wins over them when they are used.

    A name without ``=`` takes its value from ``outer``, or is left out. Messages never show a value.
    """
    text = decode_text(data, problems, file)
    if text is None:
        return {}
    found: dict[str, str] = {}
    interpolator = Interpolator(lambda name: outer[name] if name in outer else found.get(name))
    for binding in parse_stream(io.StringIO(text)):
        mark = Mark(binding.original.line, 1)
        if binding.error:
            problems.add(mark, "not a line of the form NAME=value", file)
        elif binding.key is not None:
            try:
                value, doubts = _resolve(binding, interpolator, outer)
            except InterpolationError as error:
                problems.add(mark, f"{binding.key}: {error}", file)
                continue
            for doubt in doubts:
                problems.doubt(mark, f"{binding.key}: {doubt}", file)
            if value is not None:
                found[binding.key] = value
    return found


def _resolve(
    binding: Binding, interpolator: Interpolator, outer: Mapping[str, str]
) -> tuple[str | None, tuple[str, ...]]:
    """A value and the warnings about it: in single quotes it is taken as it is; elsewhere ``\\$`` and ``$$`` are a
    dollar sign."""
    if binding.value is None:
        return outer.get(str(binding.key)), ()
    written = binding.original.string.partition("=")[2].lstrip()
    if written.startswith("'"):
        return binding.value, ()
    return interpolator.resolve(binding.value.replace("\\$", "$$")), interpolator.doubts
