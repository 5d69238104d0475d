"""What a build is asked for, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class BuildOrder(Protocol):
    """One image build (see engine.model.BuildConfig, which is one)."""

    @property
    def context(self) -> str:
        """The absolute directory that COPY copies from."""

    @property
    def tag(self) -> str:
        """The name the image will get."""

    @property
    def dockerfile(self) -> str:
        """The Dockerfile's path inside the context."""

    @property
    def args(self) -> Mapping[str, str]:
        """Values for ARG."""

    @property
    def additional_contexts(self) -> Mapping[str, str]:
        """Name to absolute directory, or to ``docker-image://REFERENCE``."""

    @property
    def target(self) -> str | None:
        """The stage to build; None: the last."""


@dataclass(frozen=True)
class BuildProgress:
    """One report: ``phase`` is step, cached, output, warning or done; ``step`` counts from 1 to ``total``."""

    phase: str
    text: str
    step: int = 0
    total: int = 0


ProgressCallback = Callable[[Any], None]
