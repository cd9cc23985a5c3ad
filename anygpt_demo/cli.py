"""The command line: `python -m anygpt_demo COMMAND`. Same chat as the page, without the page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo import __version__, checkpoints, codecs
from anygpt_demo.errors import BadAudio, BadPicture, BadText, UserError

if TYPE_CHECKING:
    from anygpt_demo.train.loop import Settings as TrainSettings

HOME = Path(__file__).resolve().parent.parent
EVALS: Mapping[str, str] = {"mini": "anygpt_demo.eval.mini:evaluate"}  # name -> module:function(Settings) -> figures


def say(text: str) -> None:
    """One line for the person."""
    print(text, flush=True)


def call(target: str) -> Callable[..., Any]:
    """Import "module:function"; a module that is absent is a UserError."""
    module, _, name = target.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found
    except ModuleNotFoundError as error:
        raise UserError("This command needs a part that is not installed.", f"{error.name} is absent.", "Run: make setup") from error


def chat(options: argparse.Namespace) -> int:
    """One message with --once, else a conversation in the terminal."""
    return int(call("anygpt_demo.terminal:run")(options))


def write_result(value: Any, path: Path | None) -> None:
    """JSON to a file, or to the terminal."""
    if path is None:
        say(json.dumps(value, indent=1, ensure_ascii=False))
    else:
        checkpoints.write_json(path, value)


# ---------------------------------------------------------------- media <-> codes


def guess(data: bytes) -> str:
    """What a file is, by content: image, speech (any sound) or text."""
    from anygpt_demo.media import read_audio, read_picture

    try:
        read_picture(data)
        return "image"
    except BadPicture:
        pass
    try:
        read_audio(data, rate_hz=16_000, limit_s=1.0, crop=True)
        return "speech"
    except BadAudio:
        pass
    try:
        data.decode("utf-8")
        return "text"
    except UnicodeDecodeError:
        raise BadText("This file is neither a picture nor a sound nor text.", "Its content is unknown.", "Give --kind.") from None


def tokenize(options: argparse.Namespace) -> int:
    """A file to ids: {"modality", "codes", "ids"}; text has no codes."""
    from anygpt_demo.chat import read_file
    from anygpt_demo.terminal import open_chat, read_bytes

    data = read_bytes(options.file)
    kind = options.kind or guess(data)
    loaded = open_chat(options)
    if kind == "text":
        text = data.decode("utf-8", "replace")
        write_result({"modality": "text", "ids": loaded.vocabulary.encode_text(text)}, options.out)
        return 0
    media, notes = read_file(loaded.vocabulary, kind, data)
    codes = loaded.codec(kind).encode(media)
    for note in notes:
        print(note, file=sys.stderr)
    write_result({"modality": kind, "codes": codes.tolist(), "ids": loaded.vocabulary.block(kind, codes)}, options.out)
    return 0


def detokenize(options: argparse.Namespace) -> int:
    """What tokenize wrote back to a file; text goes to the terminal."""
    import numpy as np

    from anygpt_demo.chat import write_file
    from anygpt_demo.terminal import open_chat, read_bytes, read_voice, rendering_of

    try:
        record = json.loads(sys.stdin.read() if str(options.file) == "-" else read_bytes(options.file))
        name = record["modality"]
        ids = [int(number) for number in record["ids"]] if "ids" in record else []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("These codes cannot be read.", "It is not what `tokenize` writes.", "Give it the output of `tokenize`.") from error
    loaded = open_chat(options)
    if name == "text":
        say(loaded.vocabulary.decode_text(ids))
        return 0
    if name not in loaded.modalities:
        raise UserError(f"There is no modality called {name}.", "The family lacks it.", f"Use one of: {', '.join(loaded.modalities)}.")
    try:
        codes = np.asarray(record["codes"], dtype=np.int64) if "codes" in record else loaded.vocabulary.codes(name, ids)
        loaded.vocabulary.block(name, codes)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"These are not {name} codes.", "Their number or range is wrong.", "Give it the output of `tokenize`.") from error
    rendering = rendering_of(options)
    seed = options.seed if rendering.seed is None else rendering.seed
    media = codecs.tune(loaded.codec(name), rendering).decode(codes, voice=read_voice(loaded, options.voice), seed=seed)
    data, suffix = write_file(media)
    path = (options.out or Path(f"{name}{suffix}")).with_suffix(suffix)
    path.write_bytes(data)
    say(str(path))
    return 0


# ---------------------------------------------------------------- training and measuring


def settings_of(options: argparse.Namespace) -> TrainSettings:
    """The command line as the settings of a training stage."""
    from anygpt_demo.train.loop import Settings, parse_budget

    pairs = dict(item.partition("=")[::2] for item in options.set or ())
    try:
        budget = parse_budget(options.budget)
    except ValueError:
        raise UserError(f"The budget {options.budget} is not a time.", "It is written as 90m, 2h or 45s.", "Give it so.") from None
    return Settings(budget, options.runs, options.data, options.family, options.seed, options.device, options.threads, pairs)


def run_stages(options: argparse.Namespace, table: Mapping[str, str]) -> int:
    """Run one entry of a table, or all of them in order."""
    settings = settings_of(options)
    for name in table if options.name == "all" else (options.name,):
        call(table[name])(settings)
    return 0


def train(options: argparse.Namespace) -> int:
    """Train a stage of the small family."""
    from anygpt_demo.train import STAGES

    return run_stages(options, STAGES)


def synth(options: argparse.Namespace) -> int:
    """Make training data."""
    from anygpt_demo.synth.make import KINDS

    return run_stages(options, KINDS)


def evaluate(options: argparse.Namespace) -> int:
    """Measure on held-out items. Where only some sections are measured, a file that is there keeps the figures of the others."""
    settings = settings_of(options)
    found = call(EVALS[options.name])(settings)
    if "sections" in settings.options and options.json is not None and options.json.is_file():
        before = json.loads(options.json.read_text(encoding="utf-8"))
        measured = settings.options["sections"].split(",")
        missing = {name: why for name, why in before.get("missing", {}).items() if name not in measured}
        found = {"figures": before.get("figures", {}) | found["figures"], "missing": missing | found["missing"]}
    write_result(found, options.json)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Measure speed and memory; or where the time of one token goes."""
    family = checkpoints.Family.open(options.family)
    if options.name == "kernels":
        times = call("anygpt_demo.eval.bench:kernels")(family, threads=options.threads)
        if options.json is not None:
            checkpoints.write_json(options.json, times)
        for name, value in times.items():
            say(f"{name:32} {value:10.1f} us")
        return 0
    if options.device != "cpu":
        result = call("anygpt_demo.eval.bench_gpu:run")(options.device, family, repeats=options.repeats)
    else:
        result = call("anygpt_demo.eval.bench:run")(family, repeats=options.repeats, threads=options.threads)
    if options.json is not None:
        checkpoints.write_json(options.json, result)
    if options.plot is not None:
        call("anygpt_demo.eval.bench:plot")(result, options.plot)
    for page in options.page or ():
        call("anygpt_demo.eval.bench:put")(result, page)
    say(call("anygpt_demo.eval.bench:table")(result))
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Download or take the official weights, and convert them."""
    target = options.out or HOME / "checkpoints" / options.name
    manifest = call("anygpt_demo.fetch:fetch")(
        options.name, target, say, source=options.source, keep=options.keep_downloads, skip=tuple(options.skip or ()), latest=options.latest
    )
    say(f"{target}: {len(manifest['components'])} components, {manifest['vocabulary']['size']} tokens")
    return 0


def rehearse(options: argparse.Namespace) -> int:
    """Random checkpoints of the official sizes all the way to a reply."""
    from anygpt_demo.rehearse import Plan, run, table

    facts = ("scale", "device", "quantize", "vram", "picture_steps", "threads")
    plan = Plan(options.dir, **{name: getattr(options, name) for name in facts})
    say(table(run(plan, say, options.keep)))
    return 0


def task(options: argparse.Namespace) -> int:
    """One task of the base model: text or a media file in, text or a media file out."""
    from anygpt_demo.chat import read_file, write_file
    from anygpt_demo.tasks import TASKS, run
    from anygpt_demo.terminal import open_chat, read_bytes, read_voice, rendering_of

    loaded = open_chat(options)
    given: Any = options.text
    source = TASKS[options.name].source
    path = getattr(options, source, None)
    if source != "text" and path is not None:
        given, notes = read_file(loaded.vocabulary, source, read_bytes(path))
        for note in notes:
            print(note, file=sys.stderr)
    voice = read_voice(loaded, options.voice)
    wishes = {"instruction": options.instruction, "preset": options.preset, "rendering": rendering_of(options)}
    answer = run(loaded, options.name, given, voice=voice, seed=options.seed, **wishes)
    if answer.media is None:
        say(answer.text)
        return 0
    data, suffix = write_file(answer.media)
    out = (options.out or Path(f"{options.name}{suffix}")).with_suffix(suffix)
    out.write_bytes(data)
    say(str(out))
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Whether everything is there, and what the official models need of a card."""
    from anygpt_demo import doctor as check

    rows = [*check.machine(), *check.family_rows(options.family)]
    for row in rows:
        say(f"{row.state:8} {row.what:26} {row.detail}")
    for line in check.memory_lines(options.kv):
        say(line)
    return 1 if any(row.state == "missing" for row in rows) else 0


def replay(options: argparse.Namespace) -> int:
    """Make the replies of a saved chat again and say whether their ids are the same."""
    from anygpt_demo import archive
    from anygpt_demo.terminal import open_chat, read_bytes

    loaded = open_chat(options)
    found = archive.unpack(read_bytes(options.file), loaded.vocabulary)
    if found.model != loaded.model:
        say(f"The chat was made with other weights ({found.family}, {found.model[:12]}; here {loaded.model[:12]}): replies will differ.")
    results = []
    for item in archive.replay(found, loaded):
        results.append(item.state)
        say(f"reply {item.turn + 1:3}: {item.state:9} {item.cause or f'{item.ids} ids'}")
    say(f"{results.count('same')} of {len(results)} replies have the same ids.")
    return 1 if "different" in results else 0


def talk(options: argparse.Namespace) -> int:
    """Push-to-talk in the terminal."""
    return int(call("anygpt_demo.talk:run")(options))


def desktop(options: argparse.Namespace) -> int:
    """The page in a window of its own."""
    return int(call("anygpt_demo.desktop:run")(options))


def version(options: argparse.Namespace) -> int:
    """The version of the project."""
    say(__version__)
    return 0


# ---------------------------------------------------------------- arguments


def _family(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", type=Path, default=checkpoints.MINI, metavar="DIR", help="model family (default: checkpoints/mini)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal results")
    parser.add_argument("--quantize", choices=["4bit", "8bit", "none"], help="bits of the language model (default: as the card needs it)")
    parser.add_argument("--vram", type=int, choices=[8, 12, 16, 24], help="GB of graphics memory to stay within (default: the card's)")
    parser.add_argument(
        "--kv", choices=["int8", "none"], default="none", help="int8: a large model's memory of the chat in half the bytes (default: none)"
    )


def _work(parser: argparse.ArgumentParser) -> None:
    data = HOME.parent / "shared" / "data"
    parser.add_argument("--budget", default="30m", help="computing time, e.g. 45s, 20m, 2h (CPU time; earlier runs of a stage count)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="states, caches and curves")
    parser.add_argument("--data", type=Path, default=data if data.is_dir() else None, metavar="DIR", help="real speech and text")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="an option of the stage")


def _rendering(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--picture-steps", type=int, metavar="N", help="steps of the picture decoder (unCLIP: 20)")
    parser.add_argument("--picture-guidance", type=float, metavar="X", help="guidance of unCLIP (10); smaller is freer")
    parser.add_argument("--picture-noise", type=int, metavar="N", help="noise level of unCLIP, 0 to 999 (0); larger is freer")
    parser.add_argument("--voice-steps", type=int, metavar="N", help="steps of SoundStorm (official: 3)")
    parser.add_argument("--enhance", action="store_true", help="pictures of twice the side, where the family has an enhancer")
    parser.add_argument("--media-seed", type=int, metavar="N", help="seed of pictures and voices (default: it follows from --seed)")


def _chat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="answer one message and leave")
    parser.add_argument("--text", default="", help="the message")
    for name in codecs.CODECS:
        parser.add_argument(f"--{name}", type=Path, action="append", metavar="FILE", help="may be given again")
    parser.add_argument("--voice", type=Path, metavar="FILE", help="a recording of the voice that replies speak in")
    parser.add_argument("--output", choices=[*codecs.CODECS, "text"], help="what the reply must contain (default: the model's choice)")
    parser.add_argument("--preset", choices=["chat", "paper", "greedy"], default="chat", help="how words are drawn")
    parser.add_argument(
        "--sampling",
        action="append",
        metavar="KIND.NAME=X",
        help="how words (text), image, speech or music are drawn, as music.guidance=2; may be given again",
    )
    parser.add_argument("--history", choices=["clean", "official"], default="clean", help="official: the published program's layout")
    parser.add_argument("--max-new", type=int, default=2048, metavar="N", help="most tokens of the reply")
    _rendering(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for media and reply.json (default: reply)")
    parser.add_argument("--music-seconds", type=float, metavar="S", help="with --once: go on with music until it lasts so long")
    parser.add_argument("--json", action="store_true", help="print reply.json")


def arguments() -> argparse.ArgumentParser:
    """All commands."""
    from anygpt_demo.fetch import FAMILIES
    from anygpt_demo.synth.make import KINDS
    from anygpt_demo.tasks import TASKS
    from anygpt_demo.train import STAGES

    parser = argparse.ArgumentParser(prog="python -m anygpt_demo", description="An any-to-any chat: text, pictures, speech and music.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(function=function)
        _family(added)
        return added

    _chat_arguments(command("chat", chat, "chat in the terminal, or answer one message with --once"))
    added = command("tokenize", tokenize, "a picture, a sound or a text as ids of the language model")
    added.add_argument("file", type=Path)
    added.add_argument("--kind", choices=[*codecs.CODECS, "text"], help="what the file is (default: by content; sounds are speech)")
    added.add_argument("--out", type=Path, metavar="FILE", help="write JSON here instead of to the terminal")
    added = command("detokenize", detokenize, "what tokenize wrote, back to a file")
    added.add_argument("file", type=Path, nargs="?", default=Path("-"), help="JSON of tokenize (default: standard input)")
    added.add_argument("--voice", type=Path, metavar="FILE", help="a recording of the voice to speak in")
    _rendering(added)
    added.add_argument("--out", type=Path, metavar="FILE")
    added = command("task", task, "one task of the base model, e.g. text-to-image or asr")
    added.add_argument("name", choices=list(TASKS), metavar="NAME", help=", ".join(TASKS))
    added.add_argument("--text", default="", help="the input of text tasks")
    for name in codecs.CODECS:
        added.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"the input of {name} tasks")
    added.add_argument("--voice", type=Path, metavar="FILE", help="a recording of the voice that tts speaks in")
    _rendering(added)
    added.add_argument("--instruction", help="instead of one from the pool")
    added.add_argument("--preset", choices=["chat", "paper", "greedy"], default="chat", help="how words are drawn")
    added.add_argument("--out", type=Path, metavar="FILE")
    added = commands.add_parser("fetch", help="get the official weights", description="Download the official weights and convert them.")
    added.set_defaults(function=fetch)
    added.add_argument("name", choices=list(FAMILIES), metavar="NAME", help=", ".join(FAMILIES))
    added.add_argument("--from", dest="source", type=Path, metavar="DIR", help="a folder with the official files, instead of the internet")
    added.add_argument("--out", type=Path, metavar="DIR", help="the new family (default: checkpoints/NAME)")
    added.add_argument("--skip", action="append", metavar="ROLE", help="a component to leave out, e.g. unclip")
    added.add_argument("--latest", action="store_true", help="take the newest revisions, not those that were recorded at the last fetch")
    added.add_argument("--keep-downloads", action="store_true", help="do not delete what was downloaded")
    about = "rehearse the official weights with random numbers: write, fetch, convert, quantize, one turn per modality"
    added = commands.add_parser("rehearse", help=about, description=about)
    added.set_defaults(function=rehearse)
    added.add_argument("--dir", type=Path, required=True, metavar="DIR", help="scratch folder; the full scale takes about 60 GB")
    added.add_argument("--scale", choices=["tiny", "full"], default="full")
    added.add_argument("--device", default="cpu", help="cpu or cuda")
    added.add_argument("--quantize", choices=["4bit", "8bit", "none"], default="4bit")
    added.add_argument("--vram", type=int, choices=[8, 12, 16, 24], default=8, help="GB of memory to stay within, as for a card")
    added.add_argument("--picture-steps", type=int, default=1, metavar="N", help="steps of unCLIP (official: 20)")
    added.add_argument("--threads", type=int, default=2, help="CPU threads")
    added.add_argument("--keep", action="store_true", help="leave the random checkpoints and the family in the folder")
    command("replay", replay, "make the replies of a saved chat again and compare their ids").add_argument("file", type=Path, metavar="ZIP")
    added = command("talk", talk, "talk with the microphone and loudspeaker of this computer")
    added.add_argument("--voice", type=Path, metavar="FILE", help="a recording of the voice that replies speak in")
    added.add_argument("--out", type=Path, metavar="DIR", help="where media go (default: a new folder in sessions)")
    added.add_argument("--devices", action="store_true", help="list microphones and loudspeakers, and leave")
    added.add_argument("--device-in", type=int, metavar="N", help="number of the microphone")
    added.add_argument("--device-out", type=int, metavar="N", help="number of the loudspeaker")
    command("desktop", desktop, "the page in a window of its own, or in the browser").add_argument("--port", type=int)
    command("doctor", doctor, "check programs, packages and model files")
    for name, function, table, about in (
        ("synth", synth, [*KINDS, "all"], "make training data"),
        ("train", train, [*STAGES, "all"], "train a stage of the small family"),
        ("eval", evaluate, [*EVALS], "measure on held-out items"),
    ):
        added = command(name, function, about)
        added.add_argument("name", choices=table, metavar="NAME", help=", ".join(table))
        _work(added)
        if name == "eval":
            added.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    added = command("bench", bench, "measure speed and memory")
    added.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    added.add_argument("name", nargs="?", choices=["kernels"], help="kernels: where the time of one token goes")
    added.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures as bars (PNG)")
    added.add_argument(
        "--page", type=Path, action="append", metavar="FILE", help="put the table into a Markdown page that has a place for it"
    )
    added.add_argument("--repeats", type=int, default=5, help="runs of every figure, of which the median counts")
    added.set_defaults(threads=None)  # one, and for sessions that are written together as many as the app has
    command("version", version, "show the version")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. A UserError is three lines and exit status 2."""
    options = arguments().parse_args(argv)
    if getattr(options, "once", False) and options.out is None:
        options.out = Path("reply")
    try:
        status: int = options.function(options)
        return status
    except UserError as error:
        print(error.problem, error.cause, error.remedy, sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
