"""Figures with their uncertainty, word errors, and where the trained judges lie."""

from __future__ import annotations

import math
import re
from collections import Counter
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


def edits(truth: Sequence[str], guess: Sequence[str]) -> int:
    """Substitutions + deletions + insertions between two sequences."""
    row = list(range(len(guess) + 1))
    for i, word in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(guess, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(substitutions + deletions + insertions, words of the reference)."""
    truth = words(reference)
    return edits(truth, words(hypothesis)), len(truth)


def character_error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[float], list[float]]:
    """(error rate, characters) of each pair, words joined by one space, ready for figure(values, weights)."""
    pairs = [(" ".join(words(truth)), " ".join(words(guess))) for truth, guess in zip(references, hypotheses, strict=True)]
    return [edits(truth, guess) / max(1, len(truth)) for truth, guess in pairs], [float(len(truth)) for truth, _ in pairs]


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption (arXiv 1411.5726): 1 to 4 words in a row, tf-idf over the references of all items, sigma 6, times 10.

    An exact copy of a single reference scores 10; the published 107.5 is 1.075 here.
    """
    truths = [[_grams(text) for text in texts] for texts in references]
    rarity = [{gram: 0.0 for rows in truths for row in rows for gram in row[size]} for size in range(4)]
    for rows in truths:
        for size in range(4):
            for gram in {gram for row in rows for gram in row[size]}:
                rarity[size][gram] += 1.0
    unseen = math.log(max(2, len(truths)))
    logs = [{gram: unseen - math.log(count) for gram, count in table.items()} for table in rarity]
    scores = []
    for text, rows in zip(hypotheses, truths, strict=True):
        said = _grams(text)
        alike = [sum(_alike(said[size], row[size], logs[size], unseen) for size in range(4)) / 4 * _even(said, row) for row in rows]
        scores.append(10 * sum(alike) / len(alike))
    return scores


def _grams(text: str) -> list[Counter[tuple[str, ...]]]:
    said = words(text)
    return [Counter(tuple(said[at : at + size]) for at in range(len(said) - size + 1)) for size in (1, 2, 3, 4)]


def _even(said: list[Counter[tuple[str, ...]]], truth: list[Counter[tuple[str, ...]]]) -> float:
    """The penalty on captions of another length."""
    return math.exp(-((said[0].total() - truth[0].total()) ** 2) / 72)


def _alike(said: Counter[tuple[str, ...]], truth: Counter[tuple[str, ...]], logs: dict[tuple[str, ...], float], unseen: float) -> float:
    """Cosine of two clipped tf-idf vectors."""
    sizes = [math.sqrt(sum((count * logs.get(gram, unseen)) ** 2 for gram, count in table.items())) for table in (said, truth)]
    shared = sum(min(said[gram], count) * count * logs[gram] ** 2 for gram, count in truth.items())
    return shared / (sizes[0] * sizes[1]) if min(sizes) > 0 else 0.0


def word_error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[float], list[float]]:
    """(error rate, words) of each pair, ready for figure(values, weights)."""
    pairs = [word_errors(truth, guess) for truth, guess in zip(references, hypotheses, strict=True)]
    return [errors / max(1, count) for errors, count in pairs], [float(count) for _, count in pairs]
