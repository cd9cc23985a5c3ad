"""All figures of a family in one file: `python -m anygpt_demo eval mini --json FILE`.

{"figures": {KEY: {"value", "ci95": [low, high], "ceiling", "floor", "n"}}, "missing": {SECTION: why}}. Rates and
accuracies are fractions; figures of pictures and music are shares of the judge's hit rate on true material.

`--set quantize=none` measures the language model in float32 instead of the bits that it runs in here, `--set rounds=6` draws each piece
of music that often, which tells smaller differences;
`python -m anygpt_demo.eval.compare` shows what that changes.

Held-out material is read from --runs (made by `synth`, never trained on). The judges of pictures and music lie in
checkpoints/judges, trained on true pictures and pieces of other seeds by `python -m anygpt_demo.eval.judges_pictures` and
 `...judges_music`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo.checkpoints import Family
from anygpt_demo.conversation import TextPart, Turn
from anygpt_demo.engine import LocalEngine
from anygpt_demo.errors import UserError
from anygpt_demo.eval import chat, enhancer, judges_music, judges_pictures, music, pictures, speech, voice
from anygpt_demo.eval.judges import Listener
from anygpt_demo.eval.metrics import figure, word_error_rates
from anygpt_demo.media import Audio
from anygpt_demo.synth import dialogues
from anygpt_demo.train.loop import Settings
from anygpt_demo.vocabulary import Vocabulary

Figures = Iterator[tuple[str, dict[str, Any]]]
ROUND = 1000  # between the seeds of a request in two rounds
SPEECH_KEYS = {"stoi": "stoi", "pesq": "pesq_wb", "wer minus original": "wer_closed_delta"}


class Subject:
    """A family under test with its held-out material, each loaded when first needed."""

    def __init__(self, settings: Settings) -> None:
        self.family = Family.open(settings.family)
        self.runs = settings.runs
        self.n = int(settings.options.get("n", 100))
        self.rounds = int(settings.options.get("rounds", 1))  # drawings of each piece of music that is asked for
        self.quantize = settings.options.get("quantize", "auto")  # bits of the language model, as LocalEngine.load() has them
        self.seed = settings.seed  # of the requests that are drawn for this measurement
        self._speaker: chat.Speaker | None = None
        self._source: chat.HeldOut | None = None

    @property
    def speaker(self) -> chat.Speaker:
        """The language model."""
        if self._speaker is None:
            engine = LocalEngine.load(self.family, quantize=self.quantize)
            self._speaker = chat.Speaker(engine, Vocabulary.of(self.family))
        return self._speaker

    @property
    def source(self) -> chat.HeldOut:
        """Held-out pictures, pieces and clips as codes."""
        if self._source is None:
            self._source = chat.HeldOut(self.runs)
        return self._source

    def make(self, request: str, modality: str, seed: int) -> np.ndarray | None:
        """Codes int64 (frames, layers) that the model writes for a typed request, or None."""
        reply = self.speaker.answer([Turn("human", (TextPart(request),))], seed=seed, force=modality)
        return next((codes for name, codes in reply.blocks if name == modality), None)


def speech_codec(subject: Subject) -> Figures:
    """speech_codec.*: copies of held-out clips, synthetic voices of training; also per kind of voice."""
    for kind, found in speech.evaluate(subject.family, subject.runs / "data" / "speech", subject.n).items():
        _, voices, levels = kind.split(", ")
        for name, value in found.items():
            key = SPEECH_KEYS.get(name, name.replace(" ", "_"))
            if (voices, levels) == ("seen voices", "all levels"):
                yield f"speech_codec.{key}", value
            yield f"speech_codec.{key}[{voices}, {levels}]", value
    yield from speech.phone_accuracy(subject.runs / "data" / "speech")


def picture_recon(subject: Subject) -> Figures:
    """picture_recon.*: picture -> 32 codes -> picture."""
    yield from pictures.evaluate(subject.family, judges_pictures.PATH, subject.n)


def picture_enhance(subject: Subject) -> Figures:
    """picture_enhance.*: 256 px -> 512 px."""
    yield from enhancer.evaluate(subject.family, judges_pictures.PATH, subject.n)


def text_to_picture(subject: Subject) -> Figures:
    """text_to_picture.*: a request that names everything judged -> picture, also for pairs that training never shows."""
    codec = pictures.ImageCodec.load(subject.family)
    judge = pictures.load(judges_pictures.PATH)

    def draw(scene: pictures.Scene, number: int) -> pictures.Picture:
        codes = subject.make(f"Draw {dialogues.scene_words(scene)}.", "image", number)
        return codec.decode(codes if codes is not None else np.zeros((32, 1), np.int64), seed=number)

    for name, value in pictures.text_to_picture(draw, judge, pictures.evaluation_scenes(subject.n, seed=4321 + subject.seed)).items():
        yield f"text_to_picture.{name}", value
    unseen = pictures.evaluation_scenes(max(1, subject.n // 2), seed=4321 + subject.seed, heldout=True)
    yield "text_to_picture.unseen_pairs_object", pictures.text_to_picture(draw, judge, unseen)["object"]


def chats(subject: Subject) -> Figures:
    """picture_to_text.*, speech_to_text.*, music_to_text.*, chat.*: what facts alone can judge."""
    yield from chat.figures(subject.speaker, subject.source, subject.n, subject.seed)


def matrix(subject: Subject) -> Figures:
    """matrix.*: every input with every output; half of n chats each."""
    yield from chat.matrix(subject.speaker, subject.source, max(1, subject.n // 2), subject.seed)


def text_to_speech(subject: Subject) -> Figures:
    """text_to_speech.*: a judge's word errors on spoken replies minus those on the synthesizer's own clips.

    wer_closed_delta: a judge that knows the sentences of the world; wer_open_delta: one that expects any English.
    """
    sets = subject.runs / "data" / "speech"
    clips = [clip for clip in speech.held_out(sets, subject.n)["seen voices"] if clip.text]
    listener = Listener(speech.closed_text(sets, [clip.text for clip in clips], "seen voices"))
    clips = [clip for clip in clips if listener.knows(clip.text)]
    codec = speech.SpeechCodec.load(subject.family)
    spoken = []
    for number, clip in enumerate(clips):
        codes = subject.make(f"Please say {clip.text}", "speech", number)
        spoken.append(codec.decode(codes, seed=number).samples if codes is not None else np.zeros(0, np.float32))
    texts = [clip.text for clip in clips]
    for key, judge in (("wer_closed_delta", listener), ("wer_open_delta", Listener(None))):
        heard = [judge.hear(samples) if len(samples) else "" for samples in spoken]
        original, lengths = word_error_rates(texts, [judge.hear(clip.samples) for clip in clips])
        made, _ = word_error_rates(texts, heard)
        floor, _ = word_error_rates(texts, heard[1:] + heard[:1])
        base = float(np.average(original, weights=lengths))
        rest = {"ceiling": 0.0, "floor": float(np.average(floor, weights=lengths)) - base}
        yield f"text_to_speech.{key}", figure([a - b for a, b in zip(made, original, strict=True)], lengths, **rest)


def voice_clone(subject: Subject) -> Figures:
    """voice_clone.* and speech_codec.reconstruction_cosine."""
    yield from voice.evaluate(subject.family, subject.runs / "data" / "speech").items()


def music_recon(subject: Subject) -> Figures:
    """music_recon.*: codec copies of held-out pieces."""
    judge = judges_music.PATH
    yield from music.evaluate(subject.family, subject.runs / "data" / "music" / "test", judge, subject.n)


def text_to_music(subject: Subject) -> Figures:
    """text_to_music.*: a request that names everything judged -> 2.5 s of music, as many times as there are rounds."""
    codec = music.MusicCodec.load(subject.family)
    listener = music.Listener.load(judges_music.PATH)
    tests = music.MusicSet.open(subject.runs / "data" / "music" / "test").pieces[: subject.n]
    pieces, made = [*tests] * subject.rounds, []
    for place, piece in enumerate(pieces):
        number = place % len(tests) + ROUND * (place // len(tests))
        codes = subject.make(f"Play {dialogues.piece_words(piece)}.", "music", number)
        audio = codec.decode(codes, seed=number).samples if codes is not None else np.zeros(0, np.float32)
        short = max(0, music.RATE_HZ - len(audio))  # the judge needs half a second: what is missing is silence
        made.append(Audio(np.pad(audio, (0, short)), music.RATE_HZ))
    asked = [music.truth(piece) for piece in pieces]
    for name, value in music.text_to_music(made, asked, pieces, listener).items():
        yield f"text_to_music.{name}", value


SECTIONS: dict[str, Callable[[Subject], Figures]] = {
    section.__name__: section
    for section in (
        speech_codec,
        picture_recon,
        picture_enhance,
        music_recon,
        chats,
        matrix,
        text_to_picture,
        text_to_music,
        text_to_speech,
        voice_clone,
    )
}


def evaluate(settings: Settings) -> dict[str, Any]:
    """Measure the sections named by the option `sections` (comma-separated; default all), `n` items each."""
    subject = Subject(settings)
    chosen = settings.options.get("sections", ",".join(SECTIONS)).split(",")
    figures: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in chosen:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            figures.update(SECTIONS[name](subject))
        except (UserError, FileNotFoundError) as error:
            missing[name] = str(error) if isinstance(error, UserError) else f"{Path(str(error.filename)).name} is missing: run synth first"
    return {"figures": figures, "missing": missing}
