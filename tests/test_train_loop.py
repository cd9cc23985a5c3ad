"""The training clock: budgets, schedule, resumable states."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from anygpt_demo.train.loop import Run, Settings, cosine, parse_budget


@pytest.fixture(autouse=True)
def _handlers():
    """Run() installs signal handlers; put the old ones back."""
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def spend(seconds: float) -> None:
    """Use CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400.0), ("2h", 7200.0), ("45s", 45.0), ("12.5", 12.5), ("0.5h", 1800.0)])
def test_budgets_are_read_in_every_unit(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


def test_the_rate_warms_up_and_comes_down() -> None:
    rates = [cosine(k / 200) for k in range(201)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] == pytest.approx(0.02)
    assert min(rates) >= 0.02


def test_the_budget_ends_the_run(tmp_path: Path) -> None:
    run = Run("stage", Settings(0.05, runs=tmp_path))
    assert run.going
    assert run.progress < 1
    spend(0.1)
    assert not run.going
    assert run.progress == 1.0


def test_a_saved_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = Settings(10.0, runs=tmp_path)
    first = Run("stage", settings)
    spend(0.05)
    first.log(loss=2.5)
    first.save({"weight": torch.arange(3), "step": 7})
    second = Run("stage", settings)
    state = second.resume()
    assert state is not None
    assert state["step"] == 7
    assert torch.equal(state["weight"], torch.arange(3))
    assert second.used_s >= 0.05
    assert [row["loss"] for row in second.rows] == [2.5]
    assert json.loads((tmp_path / "stage" / "log.json").read_text()) == second.rows


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert Run("stage", Settings(1.0, runs=tmp_path)).resume() is None


def test_an_interrupted_save_leaves_the_old_state(tmp_path: Path) -> None:
    run = Run("stage", Settings(1.0, runs=tmp_path))
    run.save({"step": 1})
    (tmp_path / "stage" / "state.pt.part").write_bytes(b"half a file")
    state = run.resume()
    assert state is not None
    assert state["step"] == 1


def test_a_signal_stops_after_the_step(tmp_path: Path) -> None:
    run = Run("stage", Settings(1000.0, runs=tmp_path))
    assert run.going
    signal.raise_signal(signal.SIGTERM)
    assert not run.going


def test_saving_is_due_by_wall_time(tmp_path: Path) -> None:
    run = Run("stage", Settings(1.0, runs=tmp_path), save_every_s=0.01)
    time.sleep(0.02)
    assert run.due()
    run.save({})
    assert not run.due()


def test_curves_are_drawn_if_matplotlib_is_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = Run("stage", Settings(1.0, runs=tmp_path))
    for step in range(3):
        run.log(loss=3.0 - step, accuracy=step / 3)
    run.plot()
    assert (tmp_path / "stage" / "curves.png").stat().st_size > 1000
