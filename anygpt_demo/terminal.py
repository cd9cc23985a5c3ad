"""Chat without a page: one turn from a script, or a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anygpt_demo import checkpoints, codecs
from anygpt_demo.chat import Card, Chat, Finished, Made, Message, Note, Settings, Update, Words, read_file
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.conversation import Conversation, Journal, MediaPart, TextPart, Turn
from anygpt_demo.enhance import voice_prompt
from anygpt_demo.errors import UserError
from anygpt_demo.media import Voice, read_audio

HOME = Path(__file__).resolve().parent.parent
VOICE_LIMIT_S = 600.0  # of a recording are searched for the best voice prompt
HELP = "/image FILE  /speech FILE  /music FILE attach   /voice FILE   /output image|speech|music|text|any   /seed N   /clear   /quit"


def say(text: str = "", end: str = "\n") -> None:
    """One line for the person."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def read_bytes(path: Path) -> bytes:
    """A file given by the person, or a UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The file {path.name} cannot be read.", error.strerror or "It is not there.", "Check its name.") from error


def refusal(error: UserError) -> str:
    """A UserError as three lines."""
    return f"{error.problem}\n{error.cause}\n{error.remedy}"


def open_chat(options: argparse.Namespace) -> Chat:
    """The chat of the chosen family."""
    import torch

    torch.set_num_threads(options.threads)
    quantize, vram = getattr(options, "quantize", None), getattr(options, "vram", None)
    return Chat.open(options.family, options.device, quantize, vram, threads=options.threads, kv=getattr(options, "kv", "none"))


def read_voice(chat: Chat, path: Path | None) -> Voice | None:
    """A voice prompt from a file, its best three seconds."""
    if path is None:
        return None
    rate_hz = chat.vocabulary.ranges["speech"].modality.sample_rate_hz or 16_000
    audio, _ = read_audio(read_bytes(path), rate_hz=rate_hz, limit_s=VOICE_LIMIT_S, crop=True)
    return Voice(path.stem, voice_prompt(audio))


def read_message(chat: Chat, text: str, files: Sequence[tuple[str, Path]]) -> tuple[Message, list[str]]:
    """Words and files to a message, and notes about the files."""
    media, notes = [], []
    for name, path in files:
        found, remarks = read_file(chat.vocabulary, name, read_bytes(path))
        media.append((name, found))
        notes += remarks
    return Message(text, tuple(media)), notes


def rendering_of(options: argparse.Namespace) -> Rendering:
    """What the command line says about rendering. Raises UserError for a number that makes no sense."""
    named = ("picture_steps", "picture_guidance", "picture_noise", "voice_steps")
    return Rendering(**{name: getattr(options, name) for name in named}, seed=options.media_seed, enhance=options.enhance)


def sampling_of(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Numbers for drawing words and codes from the command line: Settings.sampling. Raises UserError for words that are no such number."""
    found: dict[str, dict[str, float]] = {}
    for text in options.sampling or ():
        place, _, number = text.partition("=")
        kind, _, name = place.partition(".")
        try:
            value = int(number) if name == "top_k" else float(number)
        except ValueError:
            value = None
        if kind not in ("text", *codecs.CODECS) or value is None:
            cause = "It is not of the form text.temperature=0.5."
            raise UserError(f"{text} is no number for drawing.", cause, f"Begin with one of: text, {', '.join(codecs.CODECS)}.")
        found.setdefault(kind, {})[name] = value
    return found


def settings_of(options: argparse.Namespace) -> Settings:
    """How to reply, from the command line."""
    return Settings(
        preset=options.preset,
        output=options.output,
        max_new=options.max_new,
        history=options.history,
        rendering=rendering_of(options),
        sampling=sampling_of(options),
    )


def files_of(options: argparse.Namespace) -> list[tuple[str, Path]]:
    """Files named on the command line, in the order of the modalities."""
    return [(name, path) for name in codecs.CODECS for path in getattr(options, name) or ()]


def describe(turn: Turn | None) -> list[dict[str, Any]]:
    """A turn's parts for reply.json: type, text or transcript, file, codes."""
    parts: list[dict[str, Any]] = []
    for part in turn.parts if turn is not None else ():
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
            continue
        transcript = turn.text if turn is not None and part.modality == "speech" and turn.role == "mmgpt" else part.text
        parts.append({"type": part.modality, "transcript": transcript, "file": part.file, "codes": part.codes.tolist()})
    return parts


@dataclass
class Screen:
    """Shows updates in the terminal and gathers what reply.json needs."""

    quiet: bool = False
    notes: list[str] = field(default_factory=list)
    errors: list[UserError] = field(default_factory=list)
    last: Finished | None = None
    _heard: bool = False

    def show(self, update: Update) -> None:
        """One update."""
        if isinstance(update, Card):
            self.errors.append(update.error)
        elif isinstance(update, Note):
            self.notes.append(update.text)
        elif isinstance(update, Finished):
            self.last = update
        if not self.quiet:
            say(self._text(update), end="")

    def _text(self, update: Update) -> str:
        if isinstance(update, Words):
            before = ("[heard: " if update.heard else "]\n") if update.heard != self._heard else ""
            self._heard = update.heard
            return before + update.text
        if isinstance(update, Made):
            return f"\n[{update.part.modality}: {update.path}]\n"
        if isinstance(update, Note):
            return f"\n({update.text})\n"
        if isinstance(update, Card):
            return f"\n{refusal(update.error)}\n"
        if isinstance(update, Finished):
            return f"\n-- {update.tokens} tokens, {update.times['total']:.1f} s\n"
        return ""


def once(options: argparse.Namespace) -> int:
    """One turn from a script: media and reply.json into a folder."""
    start = time.perf_counter()
    chat = open_chat(options)
    loaded = time.perf_counter() - start
    message, notes = read_message(chat, options.text, files_of(options))
    voice = read_voice(chat, options.voice)
    conversation = Journal(options.out).conversation()
    conversation.clear()
    settings = settings_of(options)
    screen = Screen(options.json, notes)
    with stoppable() as stop:
        for update in chat.reply(conversation, message, voice=voice, seed=options.seed, settings=settings, stop=stop):
            screen.show(update)
        first = screen.last
        if options.music_seconds is not None and first is not None and first.turn is not None:
            for update in _longer(chat, conversation, options, stop):
                screen.show(update)
            screen.last = replace(first, turn=conversation.turns[-1])
    assert screen.last is not None
    if screen.last.reason == "refused":
        raise screen.errors[-1]
    reply = report(screen, options.seed, loaded)
    checkpoints.write_json(options.out / "reply.json", reply)
    if options.json:
        say(json.dumps(reply, ensure_ascii=False))
    return 1 if screen.errors else 0


def _longer(chat: Chat, conversation: Conversation, options: argparse.Namespace, stop: threading.Event) -> Iterator[Update]:
    """Every piece of music in the last reply, as long as the command line says."""
    from anygpt_demo.longer import lengthen

    last = len(conversation.turns) - 1
    for number, part in enumerate(conversation.turns[last].parts):
        if isinstance(part, MediaPart) and part.modality == "music":
            drawn = sampling_of(options)
            yield from lengthen(chat, conversation, last, number, options.music_seconds, seed=options.seed, stop=stop, sampling=drawn)


def report(screen: Screen, seed: int, loaded: float) -> dict[str, Any]:
    """The contents of reply.json."""
    last = screen.last
    assert last is not None
    return {
        "parts": describe(last.turn),
        "heard": last.turn.heard if last.turn is not None else None,
        "human": describe(last.human),
        "reason": last.reason,
        "seed": seed,
        "tokens": last.tokens,
        "times": {"load": round(loaded, 4), **last.times},
        "notes": screen.notes,
        "errors": [{"problem": error.problem, "cause": error.cause, "remedy": error.remedy} for error in screen.errors],
    }


@contextlib.contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, once; what was written so far is kept."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Talk:
    """A chat in the terminal: plain lines are sent, lines with a slash are commands."""

    def __init__(self, chat: Chat, conversation: Conversation, options: argparse.Namespace) -> None:
        self.chat, self.conversation = chat, conversation
        self.files: list[tuple[str, Path]] = files_of(options)
        self.voice = read_voice(chat, options.voice)
        self.output: str | None = options.output
        self.seed: int = options.seed
        self.settings = settings_of(options)

    def lines(self) -> Iterator[str]:
        """What the person types, until the end of input or /quit."""
        while True:
            try:
                line = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line == "/quit":
                return
            yield line

    def run(self) -> int:
        """Until the person leaves."""
        say(HELP)
        for line in self.lines():
            try:
                if line.startswith("/"):
                    self.command(*line[1:].partition(" ")[::2])
                elif line or self.files:
                    self.send(line)
            except UserError as error:
                say(refusal(error))
        return 0

    def command(self, name: str, value: str) -> None:
        """A line with a slash."""
        value = value.strip()
        if name in self.chat.modalities:
            self.files.append((name, Path(value)))
        elif name == "voice":
            self.voice = read_voice(self.chat, Path(value)) if value else None
        elif name == "output" and value in (*self.chat.modalities, "text", "any"):
            self.output = None if value == "any" else value
        elif name == "seed" and value.isdigit():
            self.seed = int(value)
        elif name == "clear":
            self.conversation.clear()
            self.files.clear()
        else:
            say(HELP)

    def send(self, text: str) -> None:
        """One message; Ctrl-C stops the reply."""
        files, self.files = self.files, []
        message, notes = read_message(self.chat, text, files)
        for note in notes:
            say(f"({note})")
        settings = replace(self.settings, output=self.output)
        screen = Screen()
        with stoppable() as stop:
            for update in self.chat.reply(self.conversation, message, voice=self.voice, seed=self.seed, settings=settings, stop=stop):
                screen.show(update)
        self.seed += 1


def run(options: argparse.Namespace) -> int:
    """`chat`: one turn with --once, else a conversation in the terminal."""
    if options.once:
        return once(options)
    conversation = Journal.create(HOME / "sessions").conversation() if options.out is None else Journal(options.out).conversation()
    assert conversation.journal is not None
    say(f"Files go to {conversation.journal.folder}")
    return Talk(open_chat(options), conversation, options).run()
