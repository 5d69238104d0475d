"""The examples of a property are the same in every run, whatever else has been loaded by then."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def draw_examples() -> list[list[int]]:
    drawn: list[list[int]] = []

    @settings(max_examples=50)
    @given(st.lists(st.integers(), min_size=20, max_size=40))
    def draw(numbers: list[int]) -> None:
        drawn.append(numbers)

    draw()
    return drawn


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") == "explore", reason="which looks for new ones")
def test_a_module_that_is_loaded_changes_no_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis would try its numbers and words too."""
    before = draw_examples()
    source = tmp_path / "loaded.py"
    source.write_text(f"NUMBERS = {list(range(1_000_000, 1_000_900))}\n")
    description = importlib.util.spec_from_file_location("loaded_by_a_test", source)
    assert description is not None
    monkeypatch.setitem(sys.modules, "loaded_by_a_test", importlib.util.module_from_spec(description))
    assert draw_examples() == before
