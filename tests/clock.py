"""A clock for training in tests: what a budget buys is the same on every machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from anygpt_demo.train import loop


@contextmanager
def ticking(seconds: float) -> Iterator[None]:
    """Every look at the clock of a training run takes these seconds: a slow machine makes as many steps as a fast one."""
    looks = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", SimpleNamespace(process_time=lambda: seconds * next(looks), monotonic=time.monotonic))
        yield
