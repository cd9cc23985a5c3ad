"""Where the reference files of the official code lie: all of them if they are at hand, else the subset kept beside the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """$GOLDEN_DIR, else ../shared/golden beside the repository, else tests/golden/data."""
    named = os.environ.get("GOLDEN_DIR")
    if named:
        return Path(named)
    beside = HERE.parent.parent.parent / "shared" / "golden"
    return beside if beside.is_dir() else HERE / "data"
