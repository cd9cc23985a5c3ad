"""How far 8 bit leads what is drawn away from float32: `python -m anygpt_demo.eval.precision [--family DIR] [--pieces 4]`.

Music is written in float32; then both read the same codes, and before each code the two distributions from which it is drawn are
compared. Their total variation is the share of draws in which 8 bit would take another code than float32, if both had the same luck.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anygpt_demo import protocol
from anygpt_demo.chat import Chat, Finished, Message, Settings
from anygpt_demo.checkpoints import MINI, Family
from anygpt_demo.conversation import Conversation
from anygpt_demo.engine import LocalEngine
from anygpt_demo.vocabulary import CodeRange

Scores = NDArray[np.float64]
REQUESTS = (
    "Play a slow sad piano piece without drums.",
    "Compose fast happy rock with drums.",
    "Play some jazz with a saxophone.",
    "Play a fast techno track with drums.",
)
BEGIN = 600  # codes of a piece that are compared


def shares(scores: Scores, top_k: int) -> Scores:
    """Probabilities of the top_k scores (0: all), at temperature 1."""
    least = np.partition(scores, -top_k)[-top_k] if 0 < top_k < len(scores) else -np.inf
    likely = np.exp(np.where(scores >= least, scores, -np.inf) - scores.max())
    return likely / likely.sum()


def variation(one: Scores, other: Scores) -> float:
    """Total variation of two distributions: 0 to 1."""
    return float(0.5 * np.abs(one - other).sum())


def read(engine: LocalEngine, item: CodeRange, prompts: Sequence[Sequence[int]], codes: Sequence[int]) -> Iterator[tuple[Scores, Scores]]:
    """Scores before each of some codes of a block, after each of two prompts that end with its mark."""
    runner = engine.runner
    heads = [runner.head((item.layer(layer),)) for layer in range(item.modality.layers)]
    caches, rows = [engine.cache(), engine.cache()], []
    for ids, cache in zip(prompts, caches, strict=True):
        for start in range(0, len(ids), runner.block):
            row = np.array(runner.run([(list(ids[start : start + runner.block]), cache)])[0])
        rows.append(row)
    for place, code in enumerate(codes):
        first, second = (np.array(runner.scores(row, heads[place % len(heads)]), np.float64) for row in rows)
        yield first, second
        rows = [np.array(row) for row in runner.run([([code], cache) for cache in caches])]


@torch.inference_mode()
def measure(folder: Path, pieces: int) -> dict[float, list[float]]:
    """Total variation of each code, by guidance: without it, and with the family's."""
    home = Family.open(folder)
    chat, rounded = Chat.open(home, quantize="none"), LocalEngine.load(home)
    exact, item = chat.engine, chat.vocabulary.ranges["music"]
    assert isinstance(exact, LocalEngine)
    sampling = item.modality.sampling
    found: dict[float, list[float]] = {1.0: [], sampling.guidance: []}
    for seed in range(pieces):
        conversation = Conversation()
        updates = chat.reply(conversation, Message(REQUESTS[seed % len(REQUESTS)]), seed=seed, settings=Settings(output="music"))
        turn = next(update.turn for update in updates if isinstance(update, Finished))
        assert turn is not None
        begin = turn.ids.index(item.start) + 1
        asked = [*protocol.encode(chat.vocabulary, conversation.turns[:1]), *turn.ids[:begin]]
        prompts, codes = (asked, [*protocol.anything(chat.vocabulary, "music"), item.start]), turn.ids[begin : begin + BEGIN]
        codes = codes[: codes.index(item.end)] if item.end in codes else codes
        for pair in zip(*(read(engine, item, prompts, codes) for engine in (exact, rounded)), strict=True):
            for guidance, values in found.items():
                led = (shares(other + guidance * (scores - other), sampling.top_k) for scores, other in pair)
                values.append(variation(*led))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=MINI)
    parser.add_argument("--pieces", type=int, default=4)
    given = parser.parse_args(arguments)
    for guidance, values in measure(given.family, given.pieces).items():
        sys.stdout.write(f"guidance {guidance:g}: {np.mean(values):.4f} of {len(values)} codes\n")


if __name__ == "__main__":
    main()
