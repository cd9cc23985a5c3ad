"""Speed of a family on this machine, as ratios in one run: `python -m anygpt_demo bench [--json FILE]`.

Every figure is the median of `repeats` runs; the file is {"figures": {KEY: {"value", "runs", "unit"}}, "machine": {...}}.
HF generate is the reference of the three *_vs_hf figures: same weights, official sampling settings, same prompt.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anygpt_demo.codecs import load_codec
from anygpt_demo.engine import LocalEngine
from anygpt_demo.grammar import Grammar
from anygpt_demo.models.llama import Cache
from anygpt_demo.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from anygpt_demo.checkpoints import Family

PROMPT = 512  # ids of the prompt of every figure
TEXT = 64  # words written per run
MUSIC = 200  # codes written per run


@dataclass(frozen=True)
class Bench:
    """What the figures share: a loaded family and how often each is measured."""

    family: Family
    vocabulary: Vocabulary
    engine: LocalEngine
    repeats: int

    def prompt(self, seed: int) -> list[int]:
        """512 random word pieces after the begin mark; another seed shares no prefix beyond that mark."""
        pieces = np.random.default_rng(seed).integers(300, self.vocabulary.text_size, PROMPT - 1)
        return [self.vocabulary.bos, *pieces.tolist()]

    def grammar(self, force: str | None, budget: int) -> Grammar:
        """A grammar that opens a block of `force` at once, or writes words only ("text")."""
        return Grammar(self.vocabulary, budget=budget, force=force, force_after=0)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def figure(runs: Iterable[float], unit: str) -> dict[str, Any]:
    """Median of the runs, and the runs themselves."""
    values = [round(value, 5) for value in runs]
    return {"value": round(statistics.median(values), 5), "runs": values, "unit": unit}


def reference(bench: Bench) -> LlamaForCausalLM:
    """The same weights in transformers, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    facts = {key: value for key, value in bench.engine.model.config.to_json().items() if key not in ("architectures", "torch_dtype")}
    model = LlamaForCausalLM(LlamaConfig(**facts)).float().eval()
    model.load_state_dict(bench.engine.model.state_dict(), strict=False)
    model.tie_weights()
    return model


def take(stream: Iterable[int], count: int) -> int:
    """Read at most `count` ids; how many came."""
    got = 0
    for _ in stream:
        got += 1
        if got >= count:
            break
    return got


def writing_rate(bench: Bench, force: str, count: int, seed: int) -> float:
    """Ids per second after the prompt is read."""
    stream = iter(bench.engine.generate(bench.prompt(seed), bench.grammar(force, 1200), seed=seed, stop=None, max_new=1200))
    take(stream, 4)
    start = time.perf_counter()
    got = take(stream, count)
    return got / (time.perf_counter() - start)


def reference_rate(model: LlamaForCausalLM, ids: list[int], count: int, **settings: Any) -> float:
    """Ids per second of HF generate beyond the first, the prompt's time taken off."""
    prompt = torch.tensor([ids])
    shared: dict[str, Any] = {"do_sample": True, "pad_token_id": 0, "eos_token_id": None, "output_scores": True, **settings}
    shared["return_dict_in_generate"] = True
    with torch.inference_mode():
        first = seconds(lambda: model.generate(prompt, max_new_tokens=1, min_new_tokens=1, **shared))
        every = seconds(lambda: model.generate(prompt, max_new_tokens=count + 1, min_new_tokens=count + 1, **shared))
    return count / (every - first)


def against_reference(bench: Bench) -> dict[str, Any]:
    """music_vs_hf, text_vs_hf and prefill_vs_hf, each run paired with one of the reference."""
    model = reference(bench)
    music, text, prefill = [], [], []
    for seed in range(bench.repeats):
        ids = bench.prompt(seed)
        music.append(writing_rate(bench, "music", MUSIC, seed) / reference_rate(model, ids, MUSIC, top_k=200, repetition_penalty=1.15))
        text.append(writing_rate(bench, "text", TEXT, seed) / reference_rate(model, ids, TEXT))
        with torch.inference_mode():
            theirs = seconds(lambda ids=ids: model(torch.tensor([ids]), use_cache=True, logits_to_keep=1))
            ours = seconds(lambda ids=ids: first_word(bench, ids, bench.engine.cache()))
        prefill.append(theirs / ours)
    return {"music_vs_hf": figure(music, "ratio"), "text_vs_hf": figure(text, "ratio"), "prefill_vs_hf": figure(prefill, "ratio")}


def first_word(bench: Bench, ids: list[int], cache: Cache) -> int:
    """Read a prompt and draw one word."""
    return next(iter(bench.engine.generate(ids, bench.grammar("text", 64), seed=1, max_new=64, cache=cache)))


def latency(bench: Bench) -> dict[str, Any]:
    """Time to the first word with a new prompt and with a prefix that is already read, and from stop to silence."""
    cold, warm, abort = [], [], []
    for seed in range(bench.repeats):
        ids, cache = bench.prompt(seed), bench.engine.cache()
        cold.append(1000 * seconds(lambda ids=ids, cache=cache: first_word(bench, ids, cache)))
        longer = ids + bench.prompt(seed + 1000)[1:17]
        warm.append(1000 * seconds(lambda ids=longer, cache=cache: first_word(bench, ids, cache)))
        stop = threading.Event()
        stream = iter(bench.engine.generate(ids, bench.grammar("music", 1200), seed=1, stop=stop, max_new=1200, cache=cache))
        take(stream, 20)
        stop.set()
        abort.append(1000 * seconds(lambda stream=stream: take(stream, 10_000)))
    return {
        "first_text_ms": figure(cold, "ms"),
        "first_text_prefix_ms": figure(warm, "ms"),
        "abort_ms": {**figure(abort, "ms"), "value": round(sorted(abort)[int(0.95 * (len(abort) - 1))], 3)},
    }


def rendering(bench: Bench) -> dict[str, Any]:
    """Whole chains, model to media: real-time factors of music and speech, seconds per picture, time to the first sound."""
    chains: dict[str, list[float]] = {"music": [], "speech": [], "image": []}
    first_audio: list[float] = []
    codecs = {name: load_codec(name, bench.family) for name in chains}
    for seed in range(bench.repeats):
        for name, times in chains.items():
            facts = bench.vocabulary.ranges[name].modality
            grammar = Grammar(bench.vocabulary, budget=1300, force=name, force_after=0, limits={"music": 125, "speech": 150})
            start = time.perf_counter()
            ids = list(bench.engine.generate(bench.prompt(seed)[:64], grammar, seed=seed, max_new=1300))
            inside = ids[ids.index(bench.vocabulary.ranges[name].start) + 1 : ids.index(bench.vocabulary.ranges[name].end)]
            codes = bench.vocabulary.codes(name, inside)
            codecs[name].decode(codes, seed=seed)
            spent = time.perf_counter() - start
            if name == "speech":
                first_audio.append(1000 * spent)
            times.append(spent if facts.frame_rate_hz is None else spent / (len(codes) / facts.frame_rate_hz))
    return {
        "music_rtf": figure(chains["music"], "seconds per second"),
        "speech_rtf": figure(chains["speech"], "seconds per second"),
        "picture_s": figure(chains["image"], "s"),
        "first_audio_ms": figure(first_audio, "ms"),
    }


def read_limit(repeats: int) -> float:
    """Bytes per second that one thread reads from memory (sum over 512 MB of float32)."""
    block = torch.ones(128 * 1024 * 1024)
    return max(block.nbytes / seconds(block.sum) for _ in range(repeats))


def resources(bench: Bench) -> dict[str, Any]:
    """Peak memory of this process, and the share of the memory bandwidth that writing one code of music reaches."""
    import resource

    rate = writing_rate(bench, "music", 100, seed=0)
    layers = sum(parameter.nbytes for parameter in bench.engine.model.model.layers.parameters())
    rows = bench.vocabulary.ranges["music"].modality.codebook
    read = (layers + rows * bench.engine.model.head[0].nbytes) * rate
    return {
        "peak_rss_mb": figure([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], "MB"),
        "bandwidth_share": figure([read / read_limit(bench.repeats)], "share of one thread's read limit"),
    }


def batching(bench: Bench) -> dict[str, Any]:
    """Throughput of four sessions over one. Sessions take turns in this engine, so it is about 1."""
    one, four = [], []
    for seed in range(bench.repeats):
        one.append(writing_rate(bench, "music", MUSIC, seed))
        streams = []
        for n in range(4):
            generation = bench.engine.generate(bench.prompt(seed + n)[:64], bench.grammar("music", 1200), seed=n, max_new=1200)
            streams.append(iter(generation))
        for stream in streams:
            take(stream, 4)
        start = time.perf_counter()
        got = sum(take(stream, 1) for _ in range(MUSIC // 4) for stream in streams)
        four.append(got / (time.perf_counter() - start))
    return {"batch4_throughput": figure([b / a for a, b in zip(one, four, strict=True)], "ratio")}


def run(family: Family, repeats: int = 5, threads: int = 1) -> dict[str, Any]:
    """All figures. Prints nothing; the command line writes and shows the result."""
    torch.set_num_threads(threads)
    bench = Bench(family, Vocabulary.of(family), LocalEngine.load(family), repeats)
    figures = {**rendering(bench), **resources(bench), **latency(bench), **batching(bench), **against_reference(bench)}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": threads, "torch": torch.__version__}
    return {"figures": figures, "machine": machine}
