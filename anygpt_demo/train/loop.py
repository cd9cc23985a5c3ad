"""What every training stage shares: a budget of CPU time, resumable states, a learning-rate schedule, averaged weights and curves."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    """What the command line gives a stage."""

    budget_s: float  # CPU seconds (GPU: wall seconds) in all, earlier runs of the same stage counted in
    runs: Path = Path("runs")  # states, caches and curves; never in git
    data: Path | None = None  # folder of real speech and text; None: synthetic only
    family: Path = Path("checkpoints/mini")  # where finished weights are exported
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    options: dict[str, str] = field(default_factory=dict)  # stage-specific KEY=VALUE


class Averaged:
    """A model in training with a moving average of its weights, which is what is exported, and its optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, keep: float) -> None:
        """keep: share of the average that stays in each step, once there have been many."""
        self.model, self.optimizer, self.keep, self.steps = model, optimizer, keep, 0
        self.begin()

    def begin(self) -> None:
        """The average becomes what the model is now."""
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}

    def update(self, loss: Tensor, rate: float, most: float) -> None:
        """One step of the optimizer, gradients clipped to `most`; the average follows. A group's `speed` is a factor on its rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("speed", 1.0)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), most)
        self.optimizer.step()
        self.steps += 1
        decay = min(self.keep, (1 + self.steps) / (10 + self.steps))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        parts = {"model": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict()}
        return {**parts, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from state()."""
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])


def parse_budget(text: str) -> float:
    """'90m', '2h', '45s' or plain seconds -> seconds."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    return float(text[:-1]) * unit if unit else float(text)


def cosine(progress: float, warmup: float = 0.02, floor: float = 0.02) -> float:
    """Learning-rate factor at a share of the budget in [0, 1]: linear warm-up, cosine down to `floor`."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


class Run:
    """The clock, state file and log of one stage.

    Time is CPU time of this process, so that a busy machine trains as long as an idle one; on a GPU it is wall time.
    State is saved to runs/<stage>/state.pt every `save_every_s` wall seconds and on SIGTERM/SIGINT.
    """

    def __init__(self, stage: str, settings: Settings, save_every_s: float = 120.0) -> None:
        self.folder = settings.runs / stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.settings = settings
        self.save_every_s = save_every_s
        self.before_s = 0.0
        self.rows: list[dict[str, float]] = []
        self.stopping = False
        self._clock = time.monotonic if settings.device != "cpu" else time.process_time
        self._start = self._clock()
        self._saved = time.monotonic()
        torch.set_num_threads(settings.threads)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    @property
    def used_s(self) -> float:
        """Seconds of the budget used, earlier runs included."""
        return self.before_s + self._clock() - self._start

    @property
    def progress(self) -> float:
        """Share of the budget used, in [0, 1]."""
        return min(1.0, self.used_s / self.settings.budget_s)

    @property
    def going(self) -> bool:
        """False once the budget is spent or the process was asked to stop."""
        return not self.stopping and self.used_s < self.settings.budget_s

    def resume(self) -> dict[str, Any] | None:
        """The last saved state (what save() was given), or None. Restores the clock and the log."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return None
        state = torch.load(path, map_location=self.settings.device, weights_only=True)
        self.before_s = float(state["used_s"])
        self.rows = list(state["rows"])
        self._start = self._clock()
        return state["state"]

    def save(self, state: dict[str, Any]) -> None:
        """Write the state whole or not at all. state: tensors and plain values only (module and optimizer state_dicts)."""
        draft = self.folder / "state.pt.part"
        torch.save({"used_s": self.used_s, "rows": self.rows, "state": state}, draft)
        os.replace(draft, self.folder / "state.pt")
        (self.folder / "log.json").write_text(json.dumps(self.rows))
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved > self.save_every_s

    def log(self, **figures: float) -> None:
        """Append figures to the curve and show one progress line (at most every 5 s when nothing is a metric)."""
        self.rows.append({"s": round(self.used_s, 1), **{key: float(value) for key, value in figures.items()}})
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        left = max(0.0, self.settings.budget_s - self.used_s)
        print(f"{self.stage} {100 * self.progress:5.1f} %  {shown}  {left / 60:.1f} min left", file=sys.stderr, flush=True)

    def plot(self) -> None:
        """Save the curves as runs/<stage>/curves.png (needs matplotlib; without it only log.json is kept)."""
        try:
            import matplotlib
        except ImportError:
            return
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        keys = sorted({key for row in self.rows for key in row} - {"s"})
        figure, axes = plt.subplots(1, max(1, len(keys)), figsize=(3.2 * max(1, len(keys)), 2.6), squeeze=False)
        for axis, key in zip(axes[0], keys, strict=False):
            points = [(row["s"] / 60, row[key]) for row in self.rows if key in row]
            axis.plot(*zip(*points, strict=True), linewidth=1)
            axis.set_title(key, fontsize=8)
            axis.set_xlabel("CPU minutes", fontsize=7)
        figure.tight_layout()
        figure.savefig(self.folder / "curves.png", dpi=110)
        plt.close(figure)


class Steps(Protocol):
    """A trainer that follow() can drive."""

    run: Run

    def step(self) -> dict[str, float]:
        """One update. Returns what is logged."""

    def measure(self) -> None:
        """Log figures on test items."""

    def state(self) -> dict[str, Any]:
        """What resume needs."""


def follow(trainer: Steps, every: int, measures: int) -> None:
    """Step until the budget is spent: the terms are logged every so many steps, `measures` measurements are taken, states are saved."""
    run = trainer.run
    steps, measured = 0, run.used_s
    while run.going:
        terms = trainer.step()
        steps += 1
        if steps % every == 1:
            run.log(**terms)
        if run.used_s - measured > run.settings.budget_s / measures:
            measured = run.used_s
            trainer.measure()
        if run.due():
            run.save(trainer.state())
    run.save(trainer.state())
