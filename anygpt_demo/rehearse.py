"""The whole way of the official weights with random numbers in their place: write, fetch, convert, quantize, one turn per modality.

    python -m anygpt_demo rehearse --dir SCRATCH                  about 60 GB of disk, half an hour
    python -m anygpt_demo rehearse --dir SCRATCH --scale tiny     seconds

Every stage runs in a process of its own, so that its peak of memory is its own. A stage whose result lies in the folder is not
done again, so an interrupted rehearsal goes on where it stopped. The replies are noise: a turn shows that every part of the way
runs, and what it costs.

Memory is looked at five times a second, in two parts: what the processes need (RssAnon and RssShmem of Linux), which the
goals are about, and pages of files that happen to be mapped (RssFile), which the system takes back whenever it wants them.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo.checkpoints import Family, write_json
from anygpt_demo.errors import ModelFault, UserError

if TYPE_CHECKING:
    from anygpt_demo.chat import Chat, Media

Tick = Callable[[float, float], None]
Say = Callable[[str], None]
GOAL = 11e9  # bytes: the most that the 4-bit stack with one group of codecs may take
WRITE_GOAL = 6e9  # bytes: the most that writing the random checkpoints may take
LOOK_S = 0.2  # between two looks at the memory
TURNS = (("text", "text"), ("image", "speech"), ("speech", "music"), ("music", "image"))  # every modality once in, once out
LENGTHS: Mapping[str, int] = {"text": 8, "image": 38, "speech": 14, "music": 26}  # most ids of a reply
LIMITS: Mapping[str, int] = {"speech": 10, "music": 5}  # most frames of a block


@dataclass(frozen=True)
class Plan:
    """What is rehearsed. folder: scratch; scale: of mockup.SCALES; picture_steps: of unCLIP, whose official 20 take long on a CPU."""

    folder: Path
    scale: str = "full"
    device: str = "cpu"
    quantize: str = "4bit"
    vram: int | None = 8
    picture_steps: int = 1
    threads: int = 1

    @property
    def official(self) -> Path:
        """Where the random checkpoints lie."""
        return self.folder / "official"

    @property
    def family(self) -> Path:
        """Where the converted family lies."""
        return self.folder / "anygpt-chat"


@dataclass
class Row:
    """One line of the report. memory: most bytes that were needed; mapped: most bytes of files in memory; vram: most bytes on the card.

    Each is 0 where it is not known.
    """

    label: str
    seconds: float
    cpu_seconds: float
    memory: int
    mapped: int = 0
    vram: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    stage: str = ""  # of STAGES


# ---------------------------------------------------------------- measuring


def memory_of(process: int | str) -> tuple[int, int]:
    """Bytes of a process that are its own, and bytes of files that it has mapped; 0 where /proc does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        sizes = {name: int(words.split()[0]) * 1024 for name, _, words in (line.partition(":") for line in lines) if name.startswith("Rss")}
    except (OSError, ValueError, IndexError):
        return 0, 0
    return sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sizes.get("RssFile", 0)


def _children(process: int) -> list[int]:
    """The processes below one, on Linux."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            direct = [int(word) for word in path.read_text(encoding="ascii").split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found


class Meter:
    """Time and peak memory of this process and those below it, lap by lap, until the block ends. Known on Linux, elsewhere memory is 0."""

    def __init__(self) -> None:
        self._ended, self._looking = threading.Event(), threading.Lock()
        self._begin()

    def __enter__(self) -> Meter:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._ended.set()

    def _begin(self) -> None:
        self.memory = self.mapped = 0
        self.start, self.cpu = time.perf_counter(), sum(os.times()[:4])
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            with self._looking:  # else a look that began in one lap would count in the next
                self._look()

    def _look(self) -> None:
        sizes = [memory_of(process) for process in (os.getpid(), *_children(os.getpid()))]
        self.memory = max(self.memory, sum(own for own, _ in sizes))
        self.mapped = max(self.mapped, sum(files for _, files in sizes))

    def lap(self, label: str, **facts: Any) -> Row:
        """What has been used since the last lap."""
        with self._looking:
            self._look()
            torch = sys.modules.get("torch")
            card = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_available() else 0
            spent, busy = time.perf_counter() - self.start, sum(os.times()[:4]) - self.cpu
            row = Row(label, spent, busy, self.memory, self.mapped, int(card), facts)
            self._begin()
        return row


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over what is renamed meanwhile
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:
                pass
    return total


class Growth:
    """Tells a tick how much of the expected bytes lie below a folder, until the block ends."""

    def __init__(self, folder: Path, expected: float, tick: Tick) -> None:
        self.folder, self.expected, self.tick = folder, expected, tick
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *rest: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.tick(min(bytes_below(self.folder), self.expected), self.expected)


# ---------------------------------------------------------------- stages


def expected_bytes(scale: str) -> tuple[int, int]:
    """Bytes of the official files of a scale, and of the family that is made from them."""
    from anygpt_demo import mockup

    sizes = {path: mockup.size_of(spec) for path, (_, spec) in mockup.files(mockup.SCALES[scale]()).items()}
    llm = next(size for path, size in sizes.items() if path.startswith("anygpt/"))
    text = next(size for path, size in sizes.items() if "text_encoder" in path)
    total = sum(sizes.values())
    return total, total - llm // 2 - text


def write(plan: Plan, tick: Tick) -> Iterator[Row]:
    """Random checkpoints in the official formats."""
    from anygpt_demo import mockup

    official, _ = expected_bytes(plan.scale)
    with Meter() as meter:
        with Growth(plan.official, official, tick):
            mockup.write(plan.official, mockup.SCALES[plan.scale]())
        yield meter.lap("write", bytes=bytes_below(plan.official))


def fetch(plan: Plan, tick: Tick) -> Iterator[Row]:
    """fetch --from: every file opened in the restricted reader, verified, written as safetensors."""
    from anygpt_demo import fetch as fetching

    _, converted = expected_bytes(plan.scale)
    with Meter() as meter:
        with Growth(plan.family.with_name(plan.family.name + ".part"), converted, tick):
            fetching.fetch("anygpt-chat", plan.family, lambda text: None, source=plan.official)
        yield meter.lap("fetch --from", bytes=bytes_below(plan.family))


def quantize(plan: Plan, tick: Tick) -> Iterator[Row]:
    """The language model in fewer bits, and the copy that the next start reads."""
    import torch

    from anygpt_demo.quantize import load_llama, role_of

    torch.set_num_threads(plan.threads)
    with Meter() as meter:
        load_llama(Family.open(plan.family), "cpu", plan.quantize, tick)
        yield meter.lap(f"quantize {plan.quantize}", bytes=bytes_below(plan.family / role_of(plan.quantize)))


def turns(plan: Plan, tick: Tick) -> Iterator[Row]:
    """Start as a person would, and one turn for each of TURNS."""
    import torch

    from anygpt_demo.chat import Chat

    torch.set_num_threads(plan.threads)
    with Meter() as meter:
        chat = Chat.open(plan.family, plan.device, plan.quantize, plan.vram)
        yield meter.lap("start")
        for number, (source, target) in enumerate(TURNS):
            tick(number, len(TURNS))
            facts = one_turn(chat, plan, source, target)
            yield meter.lap(f"{source} to {target}", **facts)
    tick(1, 1)


def something(chat: Chat, name: str) -> Media:
    """A picture, or half a second of sound."""
    import numpy as np

    from anygpt_demo.media import Audio, Picture

    if name == "image":
        return Picture(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    rate_hz = chat.vocabulary.ranges[name].modality.sample_rate_hz or 16_000
    seconds = 0.5 if name == "speech" else 0.1
    return Audio(0.3 * np.sin(np.arange(round(seconds * rate_hz), dtype=np.float32) / 9), rate_hz)


def one_turn(chat: Chat, plan: Plan, source: str, target: str) -> dict[str, Any]:
    """One message and its reply. Returns times and what was made. Raises UserError if a part of the way failed."""
    from anygpt_demo.chat import Card, Finished, Made, Message, Settings, Words
    from anygpt_demo.codecs.base import Rendering
    from anygpt_demo.conversation import Conversation

    message = Message("Go on.", () if source == "text" else ((source, something(chat, source)),))
    rendering = Rendering(picture_steps=plan.picture_steps, seed=1)
    settings = Settings(output=target, max_new=LENGTHS[target], limits=dict(LIMITS), lead=0, rendering=rendering)
    made, words, last = [], 0, None
    for update in chat.reply(Conversation(), message, seed=1, settings=settings):
        if isinstance(update, Card):
            raise update.error
        if isinstance(update, Made):
            made.append(update.part.modality)
        elif isinstance(update, Words):
            words += len(update.text)
        elif isinstance(update, Finished):
            last = update
    if last is None or (made != [target] if target != "text" else not words):
        raise ModelFault(f"The turn from {source} to {target} made nothing.", "The reply was empty.", "Try another scale.")
    times = {name: round(seconds, 2) for name, seconds in last.times.items()}
    writing = times["generate"] - (times["first_token"] - times["encode"])
    rate = (last.tokens - 1) / writing if writing > 0 else 0.0
    return {"times": times, "tokens": last.tokens, "tokens_per_second": round(rate, 2), "made": made}


STAGES: Mapping[str, Callable[[Plan, Tick], Iterator[Row]]] = {"write": write, "fetch": fetch, "quantize": quantize, "turns": turns}


def complete(stage: str, plan: Plan) -> bool:
    """Whether the result of a stage lies in the folder. The turns have none: they are always taken."""
    from anygpt_demo import mockup
    from anygpt_demo.quantize import role_of

    fetched = (plan.family / "manifest.json").is_file()  # the folder is renamed to this when all of it is there
    if stage == "write":
        return fetched or mockup.written(plan.official, mockup.SCALES[plan.scale]())
    if stage == "fetch":
        return fetched
    return stage == "quantize" and fetched and Family.open(plan.family).has(role_of(plan.quantize))


# ---------------------------------------------------------------- running


def _work(stage: str, plan: Plan, pipe: Connection) -> None:
    """A stage in its own process: ticks, rows and refusals go through the pipe."""
    try:
        for row in STAGES[stage](plan, lambda done, total: pipe.send(("tick", done, total))):
            pipe.send(("row", asdict(row)))
    except UserError as error:
        pipe.send(("refused", error.problem, error.cause, error.remedy))
    pipe.close()


class Bar:
    """A progress bar: one line that changes on a terminal, elsewhere a line for every tenth."""

    def __init__(self, name: str, say: Say) -> None:
        self.name, self.say, self.tenth, self.start = name, say, -1, time.perf_counter()
        self.alive = sys.stderr.isatty()

    def show(self, done: float, total: float) -> None:
        """How much is done."""
        share = min(1.0, done / total) if total else 1.0
        line = f"{self.name:12} [{'#' * round(30 * share):30}] {share:4.0%} {time.perf_counter() - self.start:6.0f} s"
        if self.alive:
            sys.stderr.write("\r" + line)
        elif int(share * 10) > self.tenth:
            self.tenth = int(share * 10)
            self.say(line)

    def end(self) -> None:
        """All is done."""
        self.show(1, 1)
        if self.alive:
            sys.stderr.write("\n")


def run_stage(stage: str, plan: Plan, say: Say) -> Iterator[Row]:
    """One stage in a fresh process; its rows as they come. Raises the UserError that it raised, or ModelFault if it died."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(stage, plan, theirs))
    process.start()
    theirs.close()
    bar = Bar(stage, say)
    try:
        while True:
            kind, *rest = ours.recv()
            if kind == "tick":
                bar.show(*rest)
            elif kind == "row":
                yield Row(**rest[0])
            else:
                raise UserError(*rest)
    except EOFError:
        pass
    finally:
        if sys.exc_info()[0] is not None:
            process.terminate()
        process.join()
    if process.exitcode:
        raise ModelFault(f"The stage {stage} ended with status {process.exitcode}.", "It was stopped, or failed.", "Look at its output.")
    bar.end()


def machine() -> str:
    """The machine in a few words."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB RAM"
    except (OSError, StopIteration, ValueError, AttributeError):
        name, memory = platform.machine(), "RAM unknown"
    return f"{os.cpu_count()} cores {name}, {memory}"


def _goal(rows: list[Row], most: float) -> dict[str, Any]:
    """Whether the peak of some rows is within a goal; None if it was not measured."""
    peak = max(row.memory for row in rows) if rows and all(row.memory for row in rows) else None
    return {"bytes": peak, "goal_bytes": int(most), "met": None if peak is None else peak <= most}


def report(plan: Plan, rows: list[Row]) -> dict[str, Any]:
    """The figures as JSON values. The goal of the turns is judged when every one of them was taken."""
    turned = [row for row in rows if row.stage == "turns"]
    wanted = {"start", *(f"{source} to {target}" for source, target in TURNS)}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "plan": _choices(plan),
        "rows": [asdict(row) for row in rows],
        "peaks": {
            "writing": _goal([row for row in rows if row.stage == "write"], WRITE_GOAL),
            "the start and the turns": _goal(turned if wanted == {row.label for row in turned} else [], GOAL),
        },
    }


def _choices(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name != "folder"}


def table(figures: Mapping[str, Any]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| | time | CPU time | memory | mapped files | |", "|---|---|---|---|---|---|"]
    for row in figures["rows"]:
        facts = row["facts"]
        note = f"{facts['bytes'] / 1e6:,.0f} MB written" if "bytes" in facts else ""
        if "times" in facts:
            spent = ", ".join(f"{name} {facts['times'][name]:.1f} s" for name in ("encode", "first_token", "generate", "decode"))
            note = f"{spent}; {facts['tokens']} ids, {facts['tokens_per_second']:.2f}/s"
        memory = f"{row['memory'] / 1e9:.2f} GB" + (f", card {row['vram'] / 1e9:.2f} GB" if row["vram"] else "")
        spent = f"{row['seconds']:.1f} s | {row['cpu_seconds']:.1f} s"
        lines.append(f"| {row['label']} | {spent} | {memory} | {row['mapped'] / 1e9:.2f} GB | {note} |")
    lines.append("")
    for what, peak in figures["peaks"].items():
        goal = f"the goal is at most {peak['goal_bytes'] / 1e9:.0f} GB"
        if peak["met"] is None:
            lines.append(f"Peak memory of {what}: not measured; {goal}.")
        else:
            lines.append(f"Peak memory of {what}: {peak['bytes'] / 1e9:.2f} GB; {goal}: {'met' if peak['met'] else 'not met'}.")
    return "\n".join(lines)


def check_disk(plan: Plan) -> None:
    """Raise UserError if the files will not fit."""
    official, converted = expected_bytes(plan.scale)
    needed = 1.02 * (official + converted)  # the official files go before the small copy is made
    plan.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plan.folder).free + bytes_below(plan.folder)  # what lies there is used or written over
    if free < needed:
        cause = f"{needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB are free."
        raise UserError("There is not enough room for the rehearsal.", cause, "Choose another --dir.")


def _earlier(plan: Plan) -> list[Row]:
    """The rows of a report that was made by the same plan."""
    try:
        figures = json.loads((plan.folder / "report.json").read_text(encoding="utf-8"))
        return [Row(**row) for row in figures["rows"]] if figures["plan"] == _choices(plan) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _keep(plan: Plan, rows: list[Row]) -> dict[str, Any]:
    """Write the report as it is by now."""
    figures = report(plan, rows)
    write_json(plan.folder / "report.json", figures)
    (plan.folder / "report.md").write_text(table(figures) + "\n", encoding="utf-8")
    return figures


def run(plan: Plan, say: Say, keep: bool = False) -> dict[str, Any]:
    """All stages that are not complete. Writes report.json and report.md into the folder after each row and returns the figures.

    keep: leave the random checkpoints and the family; else they go as soon as nothing needs them. Raises UserError.
    """
    check_disk(plan)
    earlier = _earlier(plan)
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    for stage in STAGES:
        if stage == "quantize" and plan.quantize == "none":
            continue
        if complete(stage, plan):
            say(f"{stage}: complete")
            rows += [row for row in earlier if row.stage == stage]
            figures = _keep(plan, rows)
        else:
            for row in run_stage(stage, plan, say):
                rows.append(replace(row, stage=stage))
                figures = _keep(plan, rows)
        if stage == "fetch" and not keep:
            shutil.rmtree(plan.official, ignore_errors=True)
    if not keep:
        shutil.rmtree(plan.family)
    return figures
