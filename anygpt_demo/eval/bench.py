"""Speed of a family on this machine, as ratios in one run: `python -m anygpt_demo bench [--json FILE] [--plot FILE]`.

Every figure is the median of `repeats` runs, more where a run is short; the file is {"figures": {KEY: {"value", "runs", "unit", "limit",
"gate", "clock"}}, "machine": {...}}. limit: what could be reached at best, where that is known; docs/performance.md says why.
HF generate is the reference of the three *_vs_hf figures: same weights, the official sampling settings for both (CHAT_WORDS, and those
of the codecs), same prompt, the two in turn. Clocks: "cpu" counts the seconds that this process computed, which other programs change
less; "wall" is the time that a person waits, which they lengthen, so the machine's load stands beside the figures. Where both make
sense, both are there.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from anygpt_demo.codecs import load_codec, modalities
from anygpt_demo.engine import LocalEngine
from anygpt_demo.eval.table import put_between
from anygpt_demo.grammar import Grammar, Slice, word_ranges
from anygpt_demo.modality import CHAT_WORDS, Sampling
from anygpt_demo.models.compiled import OUTS, Compiled, MatrixFacts, library, room
from anygpt_demo.models.fast import Fast
from anygpt_demo.models.llama import Cache, Llama, LlamaConfig
from anygpt_demo.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from anygpt_demo.checkpoints import Family

PROMPT = 512  # ids of the prompt of every figure
TEXT = 64  # words written per run
MUSIC = 200  # codes written per run
HEARD = 20  # of them a tenth of a second of music
ABORTS = 40  # at least: so many that the 95th percentile is not simply the worst
ROUNDS = 20  # of four sessions per run: 40 ms each, and the clock on the wall scatters by a fifth
WIDTH = 640  # of the model of 60 million weights
GATES: dict[str, tuple[Literal["least", "most"], float]] = {
    "music_vs_hf": ("least", 5.0),
    "text_vs_hf": ("least", 3.0),
    "prefill_vs_hf": ("least", 2.0),
    "music_rtf": ("most", 0.6),
    "speech_rtf": ("most", 0.3),
    "picture_s": ("most", 1.5),
    "first_text_ms": ("most", 150.0),
    "first_text_prefix_ms": ("most", 50.0),
    "first_audio_ms": ("most", 600.0),
    "abort_ms": ("most", 50.0),
    "peak_rss_mb": ("most", 1500.0),
    "bandwidth_share": ("least", 0.5),
    "batch4_throughput": ("least", 2.5),
    "int8_perplexity": ("most", 1.01),
}


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

    def grammar(self, force: str, own: bool = False) -> Grammar:
        """Words ("text") or codes of a modality, without end. own: drawn as the family states, else with the official settings."""
        return cast(Grammar, Endless(self.vocabulary, force, own))


class Endless:
    """A grammar of words, or of whole frames of music, that never ends: every run then measures the same work."""

    done = False
    state = "block"
    codes = 1  # never at the beginning of a block

    def __init__(self, vocabulary: Vocabulary, force: str, own: bool = False) -> None:
        self.vocabulary = vocabulary
        if force == "text":
            words = Grammar(vocabulary, force="text").allowed()
            self.slices = [Slice(word_ranges(vocabulary), vocabulary.words if own else CHAT_WORDS, onward=words.onward)]
        else:
            item = vocabulary.ranges[force]
            layers = [item.layer(layer) for layer in range(item.modality.layers)]
            official = {facts.name: facts.sampling for facts in modalities()}
            sampling = item.modality.sampling if own else official[force]
            self.slices = [Slice((codes,), sampling, force, codes) for codes in layers]
        self.used = 0

    def allowed(self) -> Slice:
        """What may stand here."""
        return self.slices[self.used % len(self.slices)]

    def advance(self, number: int) -> None:
        """Take one id."""
        self.used += 1

    def ahead(self, most: int) -> list[Slice]:
        """What may stand here and after that."""
        end = self.used + most
        end -= end % len(self.slices) % max(1, most)  # with a whole frame, as Grammar.ahead()
        return [self.slices[at % len(self.slices)] for at in range(self.used, end)]

    def follow(self, ids: Sequence[int]) -> None:
        """Take ids."""
        self.used += len(ids)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call: on the wall, or of this process (time.process_time)."""
    start = clock()
    work()
    return clock() - start


def figure(runs: Iterable[float], unit: str, clock: str = "cpu", wall: Sequence[float] = ()) -> dict[str, Any]:
    """Median of the runs, and the runs themselves; wall: the same by the clock on the wall, of which the median is kept."""
    values = [round(value, 5) for value in runs]
    found = {"value": round(statistics.median(values), 5), "runs": values, "unit": unit, "clock": clock}
    return found | ({"wall": round(statistics.median(wall), 5)} if wall else {})


def percentile(values: Iterable[float], percent: float) -> float:
    """The least of the values that `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


class Watch:
    """Both clocks of one stretch of work: seconds so far, computed by this process (cpu) and gone by (wall)."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def cpu(self) -> float:
        """Seconds of computing, all threads together."""
        return time.process_time() - self._cpu

    @property
    def wall(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._wall


def reference(bench: Bench) -> LlamaForCausalLM:
    """The same weights in transformers, float32."""
    from transformers import LlamaConfig as HFConfig
    from transformers import LlamaForCausalLM

    facts = {key: value for key, value in bench.engine.model.config.to_json().items() if key not in ("architectures", "torch_dtype")}
    model = LlamaForCausalLM(HFConfig(**facts)).float().eval()
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


class Reader:
    """A block of memory of about `size` bytes, and the quickest known ways to read it in order with one thread.

    The highest of bytes, a sum of floats, and the product of models/kernels.c, which reads weights: which of them is the quickest
    depends on the processor.
    """

    def __init__(self, size: int) -> None:
        self.block = room((-(-size // (OUTS * WIDTH)) * OUTS * WIDTH,), np.uint8)
        self.block.fill(1)
        self.ways: list[Callable[[], object]] = [self.block.max, torch.from_numpy(self.block.view(np.float32)).sum]
        kernels = library()
        if kernels is not None:
            outs = self.block.size // WIDTH
            scales, result = np.ones(outs, np.float32), np.empty(outs, np.float32)
            row, codes = np.ones(WIDTH, np.float32), np.empty(2 * WIDTH, np.int8)
            facts = MatrixFacts(WIDTH, outs, self.block.ctypes.data, scales.ctypes.data, -1.0)
            self._held = (scales, result, row, codes, facts)  # kept alive
            given = (ctypes.addressof(facts), row.ctypes.data, 1, result.ctypes.data, codes.ctypes.data)
            self.ways.append(lambda: kernels.score(*given))

    def rate(self, rounds: int = 3) -> float:
        """Bytes per CPU second, the quickest of some rounds of each way. A block that fits into a cache is read from there."""
        count = 1 + (1 << 24) // self.block.nbytes

        def read(way: Callable[[], object]) -> None:
            for _ in range(count):
                way()

        times = [seconds(lambda way=way: read(way), time.process_time) for _ in range(rounds) for way in self.ways]
        return count * self.block.nbytes / max(min(times), 1e-9)


def reading_us(bench: Bench, force: str) -> float | None:
    """Microseconds in which one thread can read the weights of one id, layers and head, wherever they lie; None if that is not known."""
    runner = bench.engine.runner
    if not isinstance(runner, Fast | Compiled):
        return None
    size = runner.bytes + runner.head(bench.grammar(force).allowed().ranges).matrix.bytes
    return 1e6 * size / Reader(size).rate()


def writing_rate(bench: Bench, force: str, count: int, seed: int, own: bool = False) -> float:
    """Ids per CPU second after a prompt that has been read before. All of them are counted, and no more are drawn."""
    cache = bench.engine.cache()

    def write(most: int) -> None:
        grammar = bench.grammar(force, own)
        take(iter(bench.engine.generate(bench.prompt(seed), grammar, seed=seed, stop=None, max_new=most, cache=cache)), most)

    write(1)
    return count / seconds(lambda: write(count), time.process_time)


def reference_rate(model: LlamaForCausalLM, ids: list[int], count: int, **settings: Any) -> float:
    """Ids per CPU second of HF generate beyond the first, the prompt's time taken off."""
    prompt = torch.tensor([ids])
    shared: dict[str, Any] = {"do_sample": True, "pad_token_id": 0, "eos_token_id": None, **settings}
    with torch.inference_mode():
        first = seconds(lambda: model.generate(prompt, max_new_tokens=1, min_new_tokens=1, **shared), time.process_time)
        every = seconds(lambda: model.generate(prompt, max_new_tokens=count + 1, min_new_tokens=count + 1, **shared), time.process_time)
    return count / max(1e-6, every - first)


def drawn_by_hf(sampling: Sampling) -> dict[str, Any]:
    """The same settings in the words of HF generate."""
    return {
        "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
    }  # fmt: skip


def against_reference(bench: Bench) -> dict[str, Any]:
    """music_vs_hf, text_vs_hf and prefill_vs_hf, each run paired with one of the reference; and microseconds per id of ours alone."""
    model = reference(bench)
    ours: dict[str, list[float]] = {"music": [], "text": []}
    ratios: dict[str, list[float]] = {"music": [], "text": []}
    prefill = []
    settings = {name: (count, drawn_by_hf(bench.grammar(name).allowed().sampling)) for name, count in (("music", MUSIC), ("text", TEXT))}
    guided = []
    for seed in range(bench.repeats):
        ids = bench.prompt(seed)
        for name, (count, drawn) in settings.items():
            rate = writing_rate(bench, name, count, seed)
            ours[name].append(1e6 / rate)
            ratios[name].append(rate / reference_rate(model, ids, count, **drawn))
        guided.append(1e6 / writing_rate(bench, "music", MUSIC, seed, own=True))
        with torch.inference_mode():
            theirs = seconds(lambda ids=ids: model(torch.tensor([ids]), use_cache=True, logits_to_keep=1), time.process_time)
        prefill.append(theirs / seconds(lambda ids=ids: first_word(bench, ids, bench.engine.cache()), time.process_time))
    found = {"music_own_us": figure(guided, "us per code of music, drawn as the family states")}
    for name, unit in (("music", "us per code of music"), ("text", "us per word piece")):
        least = reading_us(bench, name)
        found[f"{name}_vs_hf"] = figure(ratios[name], "times")
        found[f"{name}_us"] = figure(ours[name], unit)
        if least is not None:
            found[f"{name}_us"]["limit"] = round(least, 2)
            found[f"{name}_vs_hf"]["limit"] = round(found[f"{name}_vs_hf"]["value"] * found[f"{name}_us"]["value"] / least, 1)
    return found | {"prefill_vs_hf": figure(prefill, "times")}


def first_word(bench: Bench, ids: list[int], cache: Cache) -> int:
    """Read a prompt and draw one word."""
    return next(iter(bench.engine.generate(ids, bench.grammar("text"), seed=1, max_new=64, cache=cache)))


def latency(bench: Bench) -> dict[str, Any]:
    """Time to the first word with a new prompt and with a prefix that is already read, and from stop to silence."""
    cold, warm, abort, ids, cache = [], [], [], bench.prompt(0), bench.engine.cache()
    for seed in range(bench.repeats):
        ids, cache = bench.prompt(seed), bench.engine.cache()
        cold.append(1000 * seconds(lambda ids=ids, cache=cache: first_word(bench, ids, cache)))
        longer = ids + bench.prompt(seed + 1000)[1:17]
        warm.append(1000 * seconds(lambda ids=longer, cache=cache: first_word(bench, ids, cache)))
    for seed in range(max(ABORTS, bench.repeats)):
        abort.append(1000 * stopping(bench, seed))
    return {
        "first_text_ms": figure(cold, "ms", "wall"),
        "first_text_prefix_ms": figure(warm, "ms", "wall"),
        "abort_ms": {**figure(abort, "ms, 95th percentile", "wall"), "value": round(percentile(abort, 95), 5)},
    }


def stopping(bench: Bench, seed: int) -> float:
    """Seconds from the stop flag to the end of a reply that another thread reads: words, music or speech, drawn as the family states."""
    stop, name = threading.Event(), ("text", "music", "speech")[seed % 3]
    if name == "speech":
        grammar = Grammar(bench.vocabulary, budget=1300, force=name, force_after=0, limits={name: 1000})
    else:
        grammar = bench.grammar(name, own=True)
    generation = bench.engine.generate(bench.prompt(seed)[:64], grammar, seed=seed, stop=stop, max_new=1300)
    reader = threading.Thread(target=lambda: take(iter(generation), 1300))
    reader.start()
    time.sleep(0.004 + 0.016 * random.Random(seed).random())  # amid the prompt or, mostly, what follows
    stop.set()
    return seconds(reader.join)


def rendering(bench: Bench) -> dict[str, Any]:
    """Whole chains, model to media: real-time factors of music and speech, seconds per picture, time to the first sound."""
    chains: dict[str, list[tuple[float, float]]] = {"music": [], "speech": [], "image": []}
    first: dict[str, list[float]] = {"music": [], "speech": []}
    codecs = {name: load_codec(name, bench.family) for name in chains}
    for seed in range(bench.repeats + 1):
        for name, times in chains.items():
            facts = bench.vocabulary.ranges[name].modality
            watch, heard, frames = Watch(), 0.0, 0
            for kind, codes in chain(bench, codecs[name], name, seed):
                if kind == "heard":
                    heard = heard or watch.wall
                else:
                    frames = len(codes)
            if seed == 0:
                continue  # the first round, in which lazy parts come to life, is not counted
            whole = 1.0 if facts.frame_rate_hz is None else frames / facts.frame_rate_hz
            times.append((watch.cpu / whole, watch.wall / whole))
            if name in first:
                first[name].append(1000 * heard)
    found = {}
    for key, name, unit in (
        ("music_rtf", "music", "s per s"),
        ("speech_rtf", "speech", "s per s"),
        ("picture_s", "image", "s"),
    ):
        found[key] = figure([cpu for cpu, _ in chains[name]], unit, wall=[wall for _, wall in chains[name]])
        facts, least = bench.vocabulary.ranges[name].modality, reading_us(bench, name)
        if facts.frame_rate_hz is not None and least is not None:  # its ids as fast as weights can be read, and the sound for nothing
            found[key]["limit"] = round(1e-6 * least * facts.layers * facts.frame_rate_hz, 5)
    slower = max(first, key=lambda name: statistics.median(first[name]))
    found["first_audio_ms"] = figure(first[slower], f"ms, {slower}", "wall")
    return found


def chain(bench: Bench, codec: Any, name: str, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """One block from the model to its media, sounds while their codes come: ("heard", codes so far) per piece, then ("whole", codes)."""
    item = bench.vocabulary.ranges[name]
    grammar = Grammar(bench.vocabulary, budget=1300, force=name, force_after=0, limits={"music": 125, "speech": 150})
    streamer = codec.streamer(seed=seed) if hasattr(codec, "streamer") else None
    inside: list[int] = []
    for number in bench.engine.generate(bench.prompt(seed)[:64], grammar, seed=seed, max_new=1300):
        if number == item.end:
            break
        if number == item.start:
            continue
        inside.append(number)
        if streamer is not None and len(inside) % item.modality.layers == 0:
            codes = bench.vocabulary.codes(name, inside[-item.modality.layers :])
            if streamer.feed(codes[0]):
                yield "heard", codes
    codes = bench.vocabulary.codes(name, inside)
    if streamer is None:
        codec.decode(codes, seed=seed)
    elif streamer.finish():
        yield "heard", codes
    yield "whole", codes


def resources(bench: Bench) -> dict[str, Any]:
    """Peak memory of the app, in processes of their own; at best that of the libraries."""

    def once(_: int) -> tuple[float, float]:
        command = [sys.executable, "-m", "anygpt_demo.eval.bench_memory", str(bench.family.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        libraries, whole = map(float, done.stdout.split()[-2:])
        return libraries, whole

    with ThreadPoolExecutor(2) as pool:
        peaks = list(pool.map(once, range(bench.repeats)))
    libraries = round(statistics.median(before for before, _ in peaks), 1)
    return {"peak_rss_mb": figure([whole for _, whole in peaks], "MB", "none") | {"limit": libraries}}


def fidelity(bench: Bench) -> dict[str, Any]:
    """Perplexity of the packed weights on what the model writes in float32, over that of float32; among the legal ids.

    The logarithm of that ratio is, in the mean over all that the model may write, its divergence from float32. At every place the mean over
    the ids that might have come is taken instead of the one that came: on the same 800 ids that scatters by a tenth as much.
    """
    exact = LocalEngine(bench.engine.model, kind="fp32")
    ratios = []
    for seed in range(bench.repeats):
        prompt, losses = bench.prompt(seed)[:64], []
        for name in ("text", "music", "speech", "image"):
            rules = {"budget": 200, "force": name, "force_after": 0, "chain": False}
            ids = list(exact.generate(prompt, Grammar(bench.vocabulary, **rules), seed=seed, max_new=200))
            own, true = (chances(engine, prompt, ids, Grammar(bench.vocabulary, **rules)) for engine in (bench.engine, exact))
            losses += [divergence(*pair) for pair in zip(own, true, strict=True)]
        ratios.append(float(np.exp(np.mean(losses))))
    return {"int8_perplexity": figure(ratios, "times that of float32", "none") | {"limit": 1.0}}


def divergence(own: torch.Tensor, true: torch.Tensor) -> float:
    """Kullback-Leibler divergence of `own` from `true`, in nats. Both: log-probabilities (V,)."""
    return float((true.exp() * (true - own)).sum())


def chances(engine: LocalEngine, prompt: list[int], ids: list[int], grammar: Grammar) -> list[torch.Tensor]:
    """log p of all legal ids at the place of each of the ids after a prompt, float64 (V,) each."""
    cache, found = engine.cache(), []
    with torch.inference_mode():
        row = engine.runner.run([(prompt, cache)])[0]
        for number in ids:
            head = engine.runner.head(grammar.allowed().ranges)
            found.append(torch.from_numpy(engine.runner.scores(row, head)).double().log_softmax(-1))
            grammar.advance(number)
            row = engine.runner.run([([number], cache)])[0]
    return found


def sixty_million(vocabulary: int) -> Fast | Compiled:
    """A random model of 60 million weights in 8 bit: width 640, 10 layers. By own kernels where they can be compiled."""
    with torch.device("meta"):
        model = Llama(LlamaConfig(vocabulary, WIDTH, 1792, 10, 10, 10, tie_word_embeddings=True))
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(0.0, 0.02, generator=generator)
    kernels = library()
    return Fast(model, "int8") if kernels is None else Compiled(model, kernels)


def bandwidth(bench: Bench) -> dict[str, Any]:
    """Bytes of weights that writing one code of music with 60 million weights reads, over what one thread can read of as many; in turn.

    And what four sessions gain where weights are the work.
    """
    model = sixty_million(bench.vocabulary.size)
    item = bench.vocabulary.ranges["music"]
    head, caches = model.head((item.layer(0),)), [model.cache(256) for _ in range(4)]
    weights = model.bytes + head.matrix.bytes
    reader = Reader(weights)
    shares, limits, gains = [], [], []

    def write(count: int) -> None:
        for number in range(16):
            for row in model.run([([item.first + number], cache) for cache in caches[:count]]):
                model.scores(row, head)

    with torch.inference_mode():
        for cache in caches:
            model.run([(list(range(300, 364)), cache)])
        write(4)
        for _ in range(bench.repeats):
            limit = reader.rate()
            one = seconds(lambda: write(1), time.process_time)
            limit = max(limit, reader.rate())
            limits.append(limit / 1e9)
            shares.append(16 * weights / one / limit)
            gains.append(4 * one / seconds(lambda: write(4), time.process_time))
    return {
        "bandwidth_share": figure(shares, "of what one thread can read") | {"limit": 1.0},
        "read_limit_gb_s": figure(limits, "GB/s"),
        "batch4_60m": figure(gains, "times") | {"limit": 4.0},
    }


def batching(bench: Bench) -> dict[str, Any]:
    """Ids per second of four sessions, each in its own thread, over one, prompts included; and how long each waits for 100 ms of music.

    By the wall, because two threads compute for them; the same by seconds of computing stands beside it.
    """
    work, walls, middle, late = [], [], [], []

    def session(number: int) -> list[float]:
        ids, times = bench.prompt(number)[:64], []
        stream = iter(bench.engine.generate(ids, bench.grammar("music"), seed=number, max_new=4 + MUSIC))
        take(stream, 4)
        for _ in range(MUSIC // HEARD):
            times.append(seconds(lambda: take(stream, HEARD)))
        stream.close()  # type: ignore[attr-defined]
        return times

    with ThreadPoolExecutor(4) as pool:
        for _ in range(bench.repeats):
            gaps: list[float] = []
            for _ in range(ROUNDS):
                alone = Watch()
                session(0)
                one = alone.cpu, alone.wall
                together = Watch()
                gaps += [1000 * gap for times in pool.map(session, range(4)) for gap in times]
                work.append(4 * one[0] / together.cpu)
                walls.append(4 * one[1] / together.wall)
            middle.append(percentile(gaps, 50))
            late.append(percentile(gaps, 95))
    found = {
        "batch4_throughput": figure(walls, "times", "wall"),
        "batch4_work": figure(work, "times as many ids per second of computing"),
        "batch4_p50_ms": figure(middle, f"ms for {HEARD} codes, 100 ms of music", "wall"),
        "batch4_p95_ms": figure(late, f"ms for {HEARD} codes, 100 ms of music", "wall"),
    }
    together_on = getattr(bench.engine.runner, "threads", 1)
    found["batch4_throughput"]["limit"] = round(together_on * found["batch4_work"]["value"], 2)
    return found


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of this code, with a plus if it was changed since; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on, and of which code and when."""
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    facts = {"processor": processor(), "cores": os.cpu_count(), "threads": threads, "torch": torch.__version__, "load": load}
    return {**facts, "commit": commit(), "date": time.strftime("%Y-%m-%d")}


def met(name: str, value: float) -> bool | None:
    """Whether a figure keeps its gate; None if it has none."""
    if name not in GATES:
        return None
    kind, limit = GATES[name]
    return value >= limit if kind == "least" else value <= limit


def run(family: Family, repeats: int = 5, threads: int | None = None) -> dict[str, Any]:
    """All figures. Prints nothing; the command line writes and shows the result.

    threads: of everything; None: one, and as many as the app has for sessions that are written together.
    """
    torch.set_num_threads(threads or 1)
    before = machine(threads or 1)["load"]
    engine = LocalEngine.load(family, threads=threads)
    bench = Bench(family, Vocabulary.of(family), engine, repeats)
    figures: dict[str, Any] = {}
    for part in (rendering, latency, batching, against_reference, bandwidth, fidelity, resources):
        figures |= part(bench)
    for name, (kind, limit) in GATES.items():
        figures[name]["gate"] = f"{'>=' if kind == 'least' else '<='} {limit:g}"
    weights = getattr(engine.runner, "kind", "as loaded")
    facts = {**machine(threads or 1), "load_before": before, "weights": weights, "together": getattr(engine.runner, "threads", 1)}
    return {"figures": figures, "machine": facts}


def shown(value: float) -> str:
    """A number for people: three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | measured | limit | gate | kept | clock | by the wall |", "|---|---|---|---|---|---|---|"]
    for name, item in result["figures"].items():
        kept = {True: "yes", False: "no", None: ""}[met(name, item["value"])]
        limit, wall = (shown(item[key]) if key in item else "" for key in ("limit", "wall"))
        cells = (f"| `{name}`", f"{shown(item['value'])} {item['unit']}", limit, item.get("gate", ""), kept, item["clock"], wall)
        lines.append(" | ".join(cells) + " |")
    return "\n".join(lines)


def put(result: dict[str, Any], page: Path) -> None:
    """Write the table and what it was measured on into a Markdown page, between the marks of "bench"."""
    facts = result["machine"]
    on = f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} thread"
    on += f" ({facts['together']} for four sessions); torch {facts['torch']}; weights in {facts['weights']}"
    when = f"{facts['date']}, commit {facts['commit']}, load of the machine {facts['load_before']} before and {facts['load']} after"
    put_between(page, "bench", f"{table(result)}\n\n{on}. {when}.")


def plot(result: dict[str, Any], path: Path) -> None:
    """A PNG with a bar per gate: how many times better than the gate a figure is. The line is the gate."""
    from PIL import Image, ImageDraw, ImageFont

    names = [name for name in GATES if name in result["figures"]]
    row, left, right, top = 30, 220, 560, 44
    picture = Image.new("RGB", (left + right + 20, top + row * len(names) + 20), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    pen.text((10, 12), "times better than the gate (logarithmic; the line is the gate)", "#444444", font)

    def across(ratio: float) -> float:
        return left + right * (0.3 + 0.7 * min(1.0, max(-0.42, np.log2(ratio) / 5)))

    for number, name in enumerate(names):
        value, (kind, limit) = result["figures"][name]["value"], GATES[name]
        ratio = max(value, 1e-9) / limit if kind == "least" else limit / max(value, 1e-9)
        y, ends = top + row * number, sorted((across(1.0), across(ratio)))
        pen.rectangle((ends[0], y + 5, max(ends[1], ends[0] + 1), y + row - 7), "#3b6ea5" if ratio >= 1 else "#c2573a")
        pen.text((10, y + 6), name, "black", font)
        pen.text((left, y + 6), f"{value:.3g}", "#444444", font)
    pen.line((across(1.0), top, across(1.0), top + row * len(names)), "black", 2)
    picture.save(path)


def kernels(family: Family, threads: int | None = None) -> dict[str, float]:
    """Where the time of one token goes: see bench_kernels.py."""
    from anygpt_demo.eval import bench_kernels

    return bench_kernels.kernels(family, threads)
