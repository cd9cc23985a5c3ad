"""The reference files for every test; where all of them are at hand, none may be skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import places


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder with the reference files."""
    return places.home()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """A skipped test is a failed one where the whole folder is there: something was not discovered."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and places.full() is not None and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although the reference files are there: {report.longrepr}"
