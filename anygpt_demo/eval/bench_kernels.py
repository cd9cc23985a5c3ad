"""Where the time of one token goes: `python -m anygpt_demo bench kernels`.

Microseconds of one code of music, divided into parts that add up to it, and of single steps by themselves.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from anygpt_demo.engine import LocalEngine, draw, penalise
from anygpt_demo.eval.bench import PROMPT, Bench, seconds, take
from anygpt_demo.grammar import PRESETS, Grammar, Slice
from anygpt_demo.models.compiled import FLAGS, STEPS, Compiled, Way, Wish, library
from anygpt_demo.models.fast import Fast, Kind, Work, matrix
from anygpt_demo.models.llama import Cache
from anygpt_demo.vocabulary import CodeRange, Vocabulary

if TYPE_CHECKING:
    from anygpt_demo.checkpoints import Family

PARTS = ("matrices", "attention", "activation", "head", "draw")  # in the order of kernels.c
REST = "rest of the engine"
CODES = STEPS  # of a reply that is timed: one call of C, short enough to be left alone by other programs now and then
ROUNDS = 100  # of them the quickest counts


def best(work: Callable[[], object], count: int = 40, rounds: int = 7, clock: Callable[[], float] = time.process_time) -> float:
    """Microseconds of one call: the quickest of some rounds."""
    return min(seconds(lambda: [work() for _ in range(count)], clock) for _ in range(rounds)) / count * 1e6


def plain_steps(fast: Fast, item: CodeRange, words: Slice) -> dict[str, float]:
    """Microseconds of the steps that calls of torch and numpy make."""
    layer, count, (work, inside) = fast.layers[0], len(fast.layers), fast._space(1)
    x = np.random.default_rng(0).normal(size=(1, fast.config.hidden_size)).astype(np.float32)
    wide = np.random.default_rng(1).normal(size=(1, fast.config.intermediate_size)).astype(np.float32)
    found: dict[str, float] = {}
    for name, given in (("qkv", x), ("out", x), ("gate_up", x), ("down", wide)):
        weights = getattr(layer, name)
        found[f"{name} x {count}"] = count * best(lambda weights=weights, given=given: weights(given, work))
    layer.qkv(x, work)
    for positions in (64, PROMPT):
        view = fast.cache(2 * PROMPT).views()[0]
        found[f"attention over {positions} x {count}"] = count * best(lambda view=view, at=positions - 1: fast._write(inside, 0, at, view))
    head = fast.head((item.layer(0),))
    found["head"] = best(lambda: fast.scores(x[0], head))
    scores, random, seen = fast.scores(x[0], head), np.random.default_rng(0), np.arange(0, 400, 4)
    found["repetition penalty"] = best(lambda: penalise(scores, seen, 1.15))
    found["sampler, music"] = best(lambda: draw(scores, item.modality.sampling, random))
    some = fast.scores(x[0], fast.head(words.ranges))
    found["sampler, words"] = best(lambda: draw(some, PRESETS["chat"], random))
    return found


def compiled_steps(fast: Compiled, item: CodeRange, words: Slice) -> dict[str, float]:
    """Microseconds of the steps of the kernels in C, for one session and for four."""
    found: dict[str, float] = {}
    rows = np.random.default_rng(0).normal(size=(4, fast.config.hidden_size)).astype(np.float32)
    for count in (1, 4):
        who = "" if count == 1 else ", four sessions"
        for name, legal in (("music", Slice((item.layer(0),), item.modality.sampling)), ("words", words)):
            way, wishes = Way.of(fast.head(legal.ranges), legal.sampling), [Wish.of(1000) for _ in range(count)]

            def draw_all(way: Way = way, wishes: list[Wish] = wishes) -> None:
                for wish in wishes:
                    wish.plan([way])
                    wish.try_luck([0.5])
                fast.draw(rows[: len(wishes)], wishes)

            found[f"head and draw, {name}{who}"] = best(draw_all)
    for positions in (1, 64, PROMPT):
        for count in (2, 4):
            caches = [fast.cache(2 * PROMPT) for _ in range(count)]
            for cache in caches:
                fast.run([([300] * positions, cache)])

            def write(caches: list[Cache] = caches, positions: int = positions) -> None:
                for cache in caches:
                    cache.ids = [300] * positions
                fast.run([([item.first], cache) for cache in caches])

            found[f"forward of {count} sessions after {positions}"] = best(write, 20)
    return found


def quickest(bench: Bench, engine: LocalEngine, positions: int, laps: Sequence[int] = ()) -> list[float]:
    """Microseconds of one code of music by the whole engine: what each of the laps took, and the rest; of each the least of some replies.

    By the wall, so that they have one clock. laps: nanoseconds so far, as the kernels count them.
    """
    prompt, cache, runs = bench.prompt(0)[:positions], engine.cache(), []
    for seed in range(ROUNDS):
        stream = iter(engine.generate(prompt, bench.grammar("music"), seed=seed, max_new=CODES + 1, cache=cache))
        take(stream, 1)  # the prompt is read
        before = list(laps)
        spent = 1e9 * seconds(lambda stream=stream: take(stream, CODES))
        parts = [now - then for now, then in zip(laps, before, strict=True)]
        runs.append([part / 1e3 / CODES for part in (*parts, spent - sum(parts))])
        stream.close()  # type: ignore[attr-defined]
    return [min(part) for part in zip(*runs, strict=True)]


def parts_of_code(bench: Bench, positions: int, steps: Mapping[str, float]) -> dict[str, float]:
    """Where the microseconds of one code of music go after some positions; the sum is the whole.

    The kernels in C are compiled once more, so that they count the time of their parts, which costs a microsecond. Without them
    the parts are the steps that plain_steps() found, and what is not among those, like the activation, is in the rest; where the
    kernels cannot be compiled once more, that is everything.
    """
    timed = library((*FLAGS, "-DLAPS")) if isinstance(bench.engine.runner, Compiled) else None
    if timed is not None:
        engine = LocalEngine(bench.engine.model, runner=Compiled(bench.engine.model, timed))
        laps = (ctypes.c_int64 * len(PARTS)).in_dll(timed, "laps")
        return dict(zip((*PARTS, REST), quickest(bench, engine, positions, cast(Sequence[int], laps)), strict=True))
    whole = quickest(bench, bench.engine, positions)[0]
    count = bench.engine.model.config.num_hidden_layers
    names = {
        "matrices": tuple(f"{name} x {count}" for name in ("qkv", "out", "gate_up", "down")),
        "attention": (f"attention over {positions} x {count}",),
        "head": ("head",),
        "draw": ("repetition penalty", "sampler, music"),
    }
    parts = {part: sum(steps[name] for name in needed) for part, needed in names.items() if needed[0] in steps}
    return {**parts, REST: whole - sum(parts.values())}


def labelled(positions: int, parts: Mapping[str, float]) -> dict[str, float]:
    """The whole and its parts, each with its share in its name."""
    whole = sum(parts.values())
    return {f"one code after {positions}": whole} | {f"  {positions}: {name}, {part / whole:.0%}": part for name, part in parts.items()}


def kernels(family: Family, threads: int | None = None) -> dict[str, float]:
    """Microseconds of one code of music and of its parts, after 64 and 512 positions; of single steps; and of other matrices."""
    torch.set_num_threads(threads or 1)
    vocabulary = Vocabulary.of(family)
    engine = LocalEngine.load(family, threads=threads)
    fast = engine.runner
    if not isinstance(fast, (Fast, Compiled)):
        raise ValueError("only packed weights have kernels to look at")
    item = vocabulary.ranges["music"]
    words = Grammar(vocabulary, force="text").allowed()
    x = np.random.default_rng(0).normal(size=(1, fast.config.hidden_size)).astype(np.float32)
    bench = Bench(family, vocabulary, engine, 1)
    found: dict[str, float] = {}
    with torch.inference_mode():
        steps = compiled_steps(fast, item, words) if isinstance(fast, Compiled) else plain_steps(fast, item, words)
        for positions in (64, PROMPT):
            found |= labelled(positions, parts_of_code(bench, positions, steps))
        found |= steps
        grammar = Grammar(vocabulary, budget=10**9, force="music", force_after=0)
        grammar.advance(item.start)
        grammar.limits["music"] = 10**9

        def state() -> None:
            grammar.follow([legal.onward[0] for legal in grammar.ahead(STEPS)])

        found["grammar"] = best(state) / STEPS
        for positions in (1, 64, PROMPT):
            cache = fast.cache(2 * PROMPT)
            fast.run([([300] * positions, cache)])

            def write(cache: Cache = cache, positions: int = positions) -> None:
                cache.ids = [300] * positions
                fast.run([([item.first], cache)])

            found[f"forward after {positions}"] = best(write)
        work = Work(1)
        model = engine.model.model.layers[0]
        joined = torch.cat([model.mlp.gate_proj.weight, model.mlp.up_proj.weight]).detach()  # type: ignore[union-attr, operator, list-item]
        kinds: tuple[Kind, ...] = ("int8", "bf16", "fp32")
        for kind in kinds:
            other = matrix(joined, kind, 1e-5)
            found[f"gate_up alone: {kind}"] = best(lambda other=other: other(x, work))
    return found
