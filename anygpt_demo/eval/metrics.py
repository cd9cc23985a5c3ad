"""Figures with their uncertainty, word errors, and where the trained judges lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

JUDGES = Path(__file__).resolve().parents[2] / "checkpoints" / "judges"  # small, in the repository: everybody measures alike


def save_judge(judge: torch.nn.Module, path: Path) -> None:
    """Write a judge's weights, floats as float16."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def load_judge(path: Path) -> dict[str, torch.Tensor]:
    """What save_judge() wrote, floats as float32."""
    from safetensors.torch import load_file

    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def figure(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    ceiling: float | None = None,
    floor: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean of per-item values (a ratio of sums if weights are given) with a bootstrap 95 % interval over items.

    ceiling: the same figure on real data. floor: on shuffled pairs. Both show what the judge itself can tell.
    """
    value = np.asarray(values, np.float64)
    weight = np.ones_like(value) if weights is None else np.asarray(weights, np.float64)
    total = value if weights is None else value * weight
    draws = np.random.default_rng(seed).integers(0, len(value), (1000, len(value)))
    means = total[draws].sum(1) / np.maximum(weight[draws].sum(1), 1e-9)
    return {
        "value": round(float(total.sum() / max(weight.sum(), 1e-9)), 4),
        "ci95": [round(float(edge), 4) for edge in np.percentile(means, (2.5, 97.5))],
        "ceiling": None if ceiling is None else round(float(ceiling), 4),
        "floor": None if floor is None else round(float(floor), 4),
        "n": len(value),
    }


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(substitutions + deletions + insertions, words of the reference)."""
    truth, guess = words(reference), words(hypothesis)
    row = list(range(len(guess) + 1))
    for i, word in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(guess, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(truth)


def word_error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[float], list[float]]:
    """(error rate, words) of each pair, ready for figure(values, weights)."""
    pairs = [word_errors(truth, guess) for truth, guess in zip(references, hypotheses, strict=True)]
    return [errors / max(1, count) for errors, count in pairs], [float(count) for _, count in pairs]
