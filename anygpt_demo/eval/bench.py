"""Speed of a family on this machine, as ratios in one run: `python -m anygpt_demo bench [--json FILE] [--plot FILE]`.

Every figure is the median of `repeats` runs; the file is {"figures": {KEY: {"value", "runs", "unit", "gate", "clock"}}, "machine": {...}}.
HF generate is the reference of the three *_vs_hf figures: same weights, same sampling settings (music: the official ones), same
prompt, the two in turn. Clocks: "cpu" counts the seconds that this process computed, which other programs change less; "wall" is the
time that a person waits, which they lengthen, so the machine's load stands beside the figures. Where both make sense, both are there.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from anygpt_demo.codecs import load_codec
from anygpt_demo.engine import LocalEngine, draw, penalise
from anygpt_demo.eval.table import put_between
from anygpt_demo.grammar import PRESETS, Grammar, Slice, word_ranges
from anygpt_demo.models.compiled import STEPS, Compiled, Way, Wish, library
from anygpt_demo.models.fast import Fast, Kind, Work, matrix
from anygpt_demo.models.llama import Cache, Llama, LlamaConfig
from anygpt_demo.vocabulary import CodeRange, Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from anygpt_demo.checkpoints import Family

PROMPT = 512  # ids of the prompt of every figure
TEXT = 64  # words written per run
MUSIC = 200  # codes written per run
HEARD = 20  # of them a tenth of a second of music
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

    def grammar(self, force: str) -> Grammar:
        """Words ("text") or codes of a modality, without end."""
        return cast(Grammar, Endless(self.vocabulary, force))


class Endless:
    """A grammar of words, or of whole frames of music, that never ends: every run then measures the same work."""

    done = False
    state = "block"
    codes = 1  # never at the beginning of a block

    def __init__(self, vocabulary: Vocabulary, force: str) -> None:
        if force == "text":
            words = Grammar(vocabulary, force="text").allowed()
            self.slices = [Slice(word_ranges(vocabulary), words.sampling, onward=words.onward)]
        else:
            item = vocabulary.ranges[force]
            layers = [item.layer(layer) for layer in range(item.modality.layers)]
            sampling = replace(item.modality.sampling, guidance=1.0)  # as HF generate, and one row per id
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


def writing_rate(bench: Bench, force: str, count: int, seed: int) -> float:
    """Ids per CPU second after the prompt is read."""
    stream = iter(bench.engine.generate(bench.prompt(seed), bench.grammar(force), seed=seed, stop=None, max_new=1200))
    take(stream, 4)
    start = time.process_time()
    got = take(stream, count)
    return got / (time.process_time() - start)


def reference_rate(model: LlamaForCausalLM, ids: list[int], count: int, **settings: Any) -> float:
    """Ids per CPU second of HF generate beyond the first, the prompt's time taken off."""
    prompt = torch.tensor([ids])
    shared: dict[str, Any] = {"do_sample": True, "pad_token_id": 0, "eos_token_id": None, "output_scores": True, **settings}
    shared["return_dict_in_generate"] = True
    with torch.inference_mode():
        first = seconds(lambda: model.generate(prompt, max_new_tokens=1, min_new_tokens=1, **shared), time.process_time)
        every = seconds(lambda: model.generate(prompt, max_new_tokens=count + 1, min_new_tokens=count + 1, **shared), time.process_time)
    return count / (every - first)


def against_reference(bench: Bench) -> dict[str, Any]:
    """music_vs_hf, text_vs_hf and prefill_vs_hf, each run paired with one of the reference."""
    model = reference(bench)
    music, text, prefill = [], [], []
    for seed in range(bench.repeats):
        ids = bench.prompt(seed)
        music.append(writing_rate(bench, "music", MUSIC, seed) / reference_rate(model, ids, MUSIC, top_k=200, repetition_penalty=1.15))
        words = {"temperature": PRESETS["chat"].temperature, "top_p": PRESETS["chat"].top_p, "top_k": 0}
        text.append(writing_rate(bench, "text", TEXT, seed) / reference_rate(model, ids, TEXT, **words))
        with torch.inference_mode():
            theirs = seconds(lambda ids=ids: model(torch.tensor([ids]), use_cache=True, logits_to_keep=1), time.process_time)
        ours = seconds(lambda ids=ids: first_word(bench, ids, bench.engine.cache()), time.process_time)
        prefill.append(theirs / ours)
    return {"music_vs_hf": figure(music, "times"), "text_vs_hf": figure(text, "times"), "prefill_vs_hf": figure(prefill, "times")}


def first_word(bench: Bench, ids: list[int], cache: Cache) -> int:
    """Read a prompt and draw one word."""
    return next(iter(bench.engine.generate(ids, bench.grammar("text"), seed=1, max_new=64, cache=cache)))


def latency(bench: Bench) -> dict[str, Any]:
    """Time to the first word with a new prompt and with a prefix that is already read, and from stop to silence."""
    cold, warm, abort = [], [], []
    for seed in range(bench.repeats):
        ids, cache = bench.prompt(seed), bench.engine.cache()
        cold.append(1000 * seconds(lambda ids=ids, cache=cache: first_word(bench, ids, cache)))
        longer = ids + bench.prompt(seed + 1000)[1:17]
        warm.append(1000 * seconds(lambda ids=longer, cache=cache: first_word(bench, ids, cache)))
        stop = threading.Event()
        stream = iter(bench.engine.generate(ids, bench.grammar("music"), seed=1, stop=stop, max_new=1200, cache=cache))
        take(stream, 20)
        stop.set()
        abort.append(1000 * seconds(lambda stream=stream: take(stream, 10_000)))
    return {
        "first_text_ms": figure(cold, "ms", "wall"),
        "first_text_prefix_ms": figure(warm, "ms", "wall"),
        "abort_ms": {**figure(abort, "ms, 95th percentile", "wall"), "value": round(sorted(abort)[int(0.95 * (len(abort) - 1))], 3)},
    }


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


def app_memory(folder: str) -> float:
    """Most memory (MB) of this process after building the page, loading everything, and one turn of each kind."""
    import resource

    from anygpt_demo import ui
    from anygpt_demo.chat import Chat, Message, Settings
    from anygpt_demo.checkpoints import Family
    from anygpt_demo.conversation import Conversation
    from anygpt_demo.media import Audio, Picture

    torch.set_num_threads(1)
    chat = Chat.open(Family.open(Path(folder)))
    with tempfile.TemporaryDirectory() as folder_of_chats:
        ui.build(chat, "mini", root=Path(folder_of_chats))
    talk = Conversation()
    for name in ("text", *chat.modalities):
        media: tuple[tuple[str, Audio | Picture], ...] = ()
        if name != "text":
            facts = chat.vocabulary.ranges[name].modality
            noise = np.random.default_rng(0).normal(0, 0.1, 3 * (facts.sample_rate_hz or 1)).astype(np.float32)
            given = Picture(np.full((512, 512, 3), 99, np.uint8)) if facts.kind == "image" else Audio(noise, facts.sample_rate_hz or 1)
            media = ((name, given),)
        for _ in chat.reply(talk, Message("Hello", media), settings=Settings(output=name, lead=4, limits={"music": 125}, max_new=640)):
            pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resources(bench: Bench) -> dict[str, Any]:
    """Peak memory of the app, in processes of their own."""
    code = "import sys; from anygpt_demo.eval.bench import app_memory; print(app_memory(sys.argv[1]))"

    def once(_: int) -> float:
        command = [sys.executable, "-c", code, str(bench.family.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        return float(done.stdout.split()[-1])

    with ThreadPoolExecutor(2) as pool:
        return {"peak_rss_mb": figure(pool.map(once, range(bench.repeats)), "MB", "none")}


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
    return {"int8_perplexity": figure(ratios, "times that of float32", "none")}


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


def read_limit(block: torch.Tensor) -> float:
    """Bytes per CPU second that one thread reads from memory, by a sum over a block far larger than the caches."""
    return block.nbytes / seconds(block.sum, time.process_time)


def sixty_million(vocabulary: int) -> Fast | Compiled:
    """A random model of 60 million weights in 8 bit: width 640, 10 layers. By own kernels where they can be compiled."""
    with torch.device("meta"):
        model = Llama(LlamaConfig(vocabulary, 640, 1792, 10, 10, 10, tie_word_embeddings=True))
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(0.0, 0.02, generator=generator)
    kernels = library()
    return Fast(model, "int8") if kernels is None else Compiled(model, kernels)


def bandwidth(bench: Bench) -> dict[str, Any]:
    """Bytes of weights that writing one code of music with 60 million weights reads, over what one thread can read; in turn.

    And what four sessions gain where weights are the work.
    """
    model = sixty_million(bench.vocabulary.size)
    item = bench.vocabulary.ranges["music"]
    head, caches = model.head((item.layer(0),)), [model.cache(256) for _ in range(4)]
    block = torch.from_numpy(np.ones(64 * 1024 * 1024, np.float32))  # numpy's, for its large pages: they are read the quickest
    weights = model.bytes + head.matrix.bytes
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
            limit = read_limit(block)
            one = seconds(lambda: write(1), time.process_time)
            limit = (limit + read_limit(block)) / 2
            limits.append(limit / 1e9)
            shares.append(16 * weights / one / limit)
            gains.append(4 * one / seconds(lambda: write(4), time.process_time))
    return {
        "bandwidth_share": figure(shares, "of what one thread can read"),
        "read_limit_gb_s": figure(limits, "GB/s"),
        "batch4_60m": figure(gains, "times"),
    }


def batching(bench: Bench) -> dict[str, Any]:
    """Ids per second of four sessions, each in its own thread, over one, prompts included; and how long each waits for 100 ms of music.

    By the wall, because two threads compute for them; the same by seconds of computing stands beside it.
    """
    work, walls, gaps = [], [], []

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
            alone = Watch()
            session(0)
            one = alone.cpu, alone.wall
            together = Watch()
            gaps += [gap for times in pool.map(session, range(4)) for gap in times]
            work.append(4 * one[0] / together.cpu)
            walls.append(4 * one[1] / together.wall)
    return {
        "batch4_throughput": figure(walls, "times", "wall"),
        "batch4_work": figure(work, "times as many ids per second of computing"),
        "batch4_p50_ms": figure([1000 * statistics.median(gaps)], f"ms for {HEARD} codes, 100 ms of music", "wall"),
        "batch4_p95_ms": figure([1000 * sorted(gaps)[int(0.95 * len(gaps))]], f"ms for {HEARD} codes, 100 ms of music", "wall"),
    }


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


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | measured | gate | kept | clock | by the wall |", "|---|---|---|---|---|---|"]
    for name, item in result["figures"].items():
        kept = {True: "yes", False: "no", None: ""}[met(name, item["value"])]
        facts = (
            f"{item['value']:.3g} {item['unit']}",
            item.get("gate", ""),
            kept,
            item["clock"],
            format(item["wall"], ".3g") if "wall" in item else "",
        )
        lines.append(" | ".join((f"| `{name}`", *facts)) + " |")
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


# ------------------------------------------------------------------------------------------------- where a token's time goes


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


def kernels(family: Family, threads: int | None = None) -> dict[str, float]:
    """Microseconds of the steps of one code of music, after 64 and 512 positions; and of what else the matrices could be."""
    torch.set_num_threads(threads or 1)
    vocabulary = Vocabulary.of(family)
    engine = LocalEngine.load(family, threads=threads)
    fast = engine.runner
    if not isinstance(fast, (Fast, Compiled)):
        raise ValueError("only packed weights have kernels to look at")
    item = vocabulary.ranges["music"]
    words = Grammar(vocabulary, force="text").allowed()
    x = np.random.default_rng(0).normal(size=(1, fast.config.hidden_size)).astype(np.float32)
    found: dict[str, float] = {}
    with torch.inference_mode():
        found |= compiled_steps(fast, item, words) if isinstance(fast, Compiled) else plain_steps(fast, item, words)
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
