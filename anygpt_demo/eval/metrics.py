"""Figures with their uncertainty, and word errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np


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
