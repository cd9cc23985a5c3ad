"""Where the reference data of the official code lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def golden_folder() -> Path:
    """$GOLDEN_DIR, else ../shared/golden beside the repository if it exists, else the compact subset in tests/golden/data."""
    given = os.environ.get("GOLDEN_DIR")
    full = Path(given) if given else HERE.parent.parent.parent / "shared" / "golden"
    return full if full.is_dir() else HERE / "data"


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of the reference data in use."""
    return golden_folder()
