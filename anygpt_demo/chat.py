"""One turn of chat: parts -> codes -> ids -> engine -> events -> decoded media -> parts, as a stream of updates.

A Chat holds what all sessions share (vocabulary, engine, codecs; read-only). What belongs to one session
(conversation, voice, seed, stop flag) is passed in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from anygpt_demo import codecs as registry
from anygpt_demo import protocol
from anygpt_demo.ahead import Ahead, Halt
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.conversation import Conversation, MediaPart, Part, TextPart, Turn
from anygpt_demo.errors import BadText, ModelFault, UserError
from anygpt_demo.grammar import BOUNDS, Grammar
from anygpt_demo.media import Audio, Picture, Voice, read_audio, read_picture, write_png, write_wav
from anygpt_demo.vocabulary import Vocabulary
from anygpt_demo.watermark import embed

if TYPE_CHECKING:
    import numpy as np

    from anygpt_demo.checkpoints import Family
    from anygpt_demo.codecs.base import Codec
    from anygpt_demo.engine import Engine
    from anygpt_demo.longer import Recital
    from anygpt_demo.memory import Shelf

Media = Audio | Picture
TEXT_LIMIT = 20_000  # characters of one message
RESERVE = 1100  # ids kept free for a reply: five seconds of music, or a sentence spoken
SHORTEST_REPLY = 64  # ids without which no reply is worth starting
QUESTIONS = {"image": "What is in this picture?", "music": "What kind of music is this?"}  # asked for a caption
QUESTION = "What is this?"
NAMES = {"image": "picture"}  # what a modality is called in a sentence, if not by its name
OUT_OF_MEMORY = "Close other programs, choose the preset fast, or start with --quantize 4bit or a smaller --vram."
log = logging.getLogger(__name__)


def numbered(count: int) -> list[str]:
    """How the places of so many files are marked in a text: "[1]", "[2]" and so on."""
    return [f"[{number}]" for number in range(1, count + 1)]


def order_of(text: str, marks: Sequence[str]) -> tuple[str | int, ...]:
    """A text with marks to words and numbers of marks (from 0), in order; nothing if there is no mark in it.

    A mark counts once; files whose marks are absent come first. Words lose the white space at either end; empty ones are left out.
    """
    found = sorted((at, number) for number, mark in enumerate(marks) if (at := text.find(mark)) >= 0)
    if not found:
        return ()
    order: list[str | int] = [number for number in range(len(marks)) if all(number != other for _, other in found)]
    begin = 0
    for at, number in found:
        order += [text[begin:at], number]
        begin = at + len(marks[number])
    cut = (part.strip() if isinstance(part, str) else part for part in (*order, text[begin:]))
    return tuple(part for part in cut if part != "")


@dataclass(frozen=True)
class Message:
    """What a person sends: words and clean media, each with its modality's name.

    A medium of an earlier message is its part, which is not encoded again.
    order: where the media stand among the words, as words and numbers of media; empty: no matter, they come first.
    """

    text: str = ""
    media: tuple[tuple[str, Media | MediaPart], ...] = ()
    order: tuple[str | int, ...] = ()

    @classmethod
    def written(cls, text: str, media: Sequence[tuple[str, Media | MediaPart]], marks: Sequence[str] = ()) -> Message:
        """A message whose text says where its media stand. marks: of each medium, else "[1]", "[2]" and so on."""
        return cls(text, tuple(media), order_of(text, marks or numbered(len(media))))


@dataclass(frozen=True)
class Settings:
    """How to reply. output: a modality to force, "text" for words only, "heard" for a transcript, None for the model's own choice.

    sampling: numbers in the place of those of the preset and of the modalities, by "text" or modality: fields of Sampling.
    Raises UserError for one out of grammar.BOUNDS.
    """

    preset: str = "chat"
    output: str | None = None
    forbid: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)  # most frames of one block, by modality
    max_new: int = 2048
    history: protocol.History = "clean"
    lead: int = 48  # most words before a forced modality begins; 0: it begins at once, and ends the reply
    rendering: Rendering = Rendering()
    sampling: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in ((name, value) for numbers in self.sampling.values() for name, value in numbers.items()):
            low, high = BOUNDS.get(name, (0, 0))
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                words = name.replace("_", "-")
                raise BadText(f"The {words} cannot be {value}.", f"It must be from {low:g} to {high:g}.", "Choose another number.")

    def record(self) -> dict[str, Any]:
        """These settings as plain JSON values."""
        own = {name: dict(numbers) for name, numbers in self.sampling.items()}
        return {**asdict(self), "forbid": list(self.forbid), "limits": dict(self.limits), "sampling": own}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Settings:
        """Inverse of record(). Raises TypeError for unknown fields."""
        rendering = Rendering(**record.get("rendering", {}))
        return cls(**{**record, "forbid": tuple(record.get("forbid", ())), "rendering": rendering})


ENHANCED = Rendering(enhance=True)  # a tenth of a second per picture on one CPU thread (eval mini: picture_enhance.seconds)
PRESETS: Mapping[str, Settings] = {
    "chat": Settings(rendering=ENHANCED),
    "paper": Settings(preset="paper", rendering=ENHANCED),
    "fast": Settings(limits={"speech": 150, "music": 75}, max_new=640),
    "best": Settings(preset="greedy", rendering=ENHANCED),
}


@dataclass(frozen=True, eq=False)
class Opening:
    """What of an earlier reply a new one begins with. The last block of ids may be open.

    media: the parts that the closed blocks stand for; shares: how likely the ids were, as far as that is known.
    """

    ids: tuple[int, ...] = ()
    media: tuple[MediaPart, ...] = ()
    shares: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What is being done now: listening (to a modality), thinking, drawing (decoding a modality)."""

    name: str
    modality: str | None = None


@dataclass(frozen=True)
class Words:
    """More words of the reply. heard: they repeat what the person said."""

    text: str
    heard: bool = False


@dataclass(frozen=True)
class Progress:
    """A block is being written: codes so far, and how many it will have (None: open)."""

    modality: str
    codes: int
    total: int | None


@dataclass(frozen=True, eq=False)
class Made:
    """A finished picture or sound. seconds: time to decode it. path: its file, if the session has a folder."""

    part: MediaPart
    media: Media
    seconds: float
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of a sound that is still being made. Joined, the pieces are the sound of the Made that follows.

    start_s: where it begins in the sound, in seconds.
    """

    modality: str
    media: Audio
    start_s: float


@dataclass(frozen=True, eq=False)
class Kept:
    """A picture or sound of an earlier reply that this one begins with."""

    part: MediaPart


@dataclass(frozen=True, eq=False)
class Preview:
    """A picture that is not finished yet. step: how many there were, this one included."""

    modality: str
    media: Picture
    step: int


@dataclass(frozen=True)
class Card:
    """Something failed; the rest of the reply still comes."""

    error: UserError
    modality: str | None = None


@dataclass(frozen=True)
class Note:
    """A remark for the person."""

    text: str


@dataclass(frozen=True, eq=False)
class Finished:
    """The last update. reason: eos, stop, budget, fault or refused. turn: the reply as journalled, None if there is none.

    times: seconds per stage (encode, first_token, generate, decode, total); tokens: ids written.
    """

    reason: str
    turn: Turn | None
    times: Mapping[str, float]
    tokens: int
    human: Turn | None = None


Update = Stage | Words | Progress | Preview | Piece | Made | Kept | Card | Note | Finished


def read_file(vocabulary: Vocabulary, modality: str, data: bytes) -> tuple[Media, list[str]]:
    """Untrusted bytes to clean media of a modality, and notes for the person. Raises UserError.

    Speech that is too long is refused (its end matters); of other sounds the beginning is used.
    """
    facts = vocabulary.ranges[modality].modality
    if facts.kind == "image":
        return read_picture(data), []
    assert facts.sample_rate_hz is not None and facts.frame_rate_hz is not None
    limit_s = (facts.frames.stop - 1) / facts.frame_rate_hz
    return read_audio(data, rate_hz=facts.sample_rate_hz, limit_s=limit_s, crop=modality != "speech")


def write_file(media: Media, generated: bool = True) -> tuple[bytes, str]:
    """Media as a file: bytes and suffix. Generated media say so in their metadata, and sound also inaudibly."""
    if isinstance(media, Picture):
        return write_png(media, ai_generated=generated), ".png"
    return write_wav(embed(media) if generated else media, ai_generated=generated), ".wav"


class Unread:
    """In the place of a language model that is not read yet."""

    @property
    def context(self) -> int:
        """Raises ModelFault."""
        raise ModelFault("The model is not there yet.", "Its files are being read.", "Try again in a minute.")

    def generate(self, ids: Sequence[int], grammar: Grammar, *, seed: int, stop: threading.Event | None, max_new: int) -> NoReturn:
        """Raises ModelFault."""
        raise AssertionError(self.context)


def _load(
    home: Family, device: str, quantize: str, threads: int | None, kv: str, media: float, tick: Callable[[int, int], None] | None
) -> Engine:
    from anygpt_demo.engine import LocalEngine

    return LocalEngine.load(home, device, quantize, tick, threads, kv, media)


class Chat:
    """A loaded family. Codecs are loaded on first use, and kept, or put on a shelf with a budget of bytes."""

    def __init__(
        self, vocabulary: Vocabulary, engine: Engine | Unread, load: Callable[[str], Codec], shelf: Shelf | None = None, model: str = ""
    ) -> None:
        self.vocabulary = vocabulary
        self.engine = engine
        self._load = load
        self.model = model  # fingerprint of the family's files
        self.clones = True  # speech can be rendered in a given voice
        self.quantize = "none"  # bits of the language model, as asked for
        self.enhances = False  # pictures can be made twice as large
        self.letters = 300  # of a text that are said in one block; 30 s hold some 400
        self._shelf = shelf
        self._codecs: dict[str, Codec] = {}
        self._lock = threading.Lock()
        self._model: Callable[[Callable[[int, int], None] | None], Engine] | None = None  # how to read it

    @classmethod
    def open(
        cls,
        family: Family | Path | str | None = None,
        device: str = "cpu",
        quantize: str | None = None,
        vram: int | None = None,
        tick: Callable[[int, int], None] | None = None,
        threads: int | None = None,
        kv: str = "none",
    ) -> Chat:
        """Load the vocabulary and language model of a family (default: the shipped one). Raises UserError, BadCheckpoint.

        quantize: none, 8bit or 4bit; None: as the card's preset says, and for the small family what is right and quick here.
        vram: a preset of memory.PRESETS; None: the card's own. tick(done, total): is told the bytes read of a large language model.
        threads: most for replies that are written together on a CPU; None: two. kv: how a large model keeps what it has read, in the type
        of its weights (none) or in half the memory (int8).
        """
        chat = cls.unread(family, device, quantize, vram, threads, kv)
        chat.read(tick)
        return chat

    @classmethod
    def unread(
        cls,
        family: Family | Path | str | None = None,
        device: str = "cpu",
        quantize: str | None = None,
        vram: int | None = None,
        threads: int | None = None,
        kv: str = "none",
    ) -> Chat:
        """The same without the language model: read() must follow before it can answer. Raises UserError, BadCheckpoint."""
        from anygpt_demo import memory
        from anygpt_demo.checkpoints import MINI, Family

        home = family if isinstance(family, Family) else Family.open(family or MINI)
        large = home.name != "mini"
        preset = memory.preset(vram, device) if large or vram is not None else None
        if quantize is None:
            small = "none" if preset is None else preset.quantize
            quantize = small if large else "auto"
        shelf = None
        if preset is not None:
            shelf = memory.Shelf(
                lambda name, purpose: registry.load_codec(name, home, device, purpose=purpose),
                lambda name, purpose: memory.estimate(home, name, purpose, device),
                preset.media,
            )
        if large:
            memory.require(home, quantize, device, kv)
        chat = cls.elsewhere(home, lambda name: registry.load_codec(name, home, device), shelf)
        chat.quantize = quantize
        chat._model = partial(_load, home, device, quantize, threads, kv, 0.0 if preset is None else preset.media)
        return chat

    @classmethod
    def elsewhere(cls, home: Family, load: Callable[[str], Codec], shelf: Shelf | None = None) -> Chat:
        """A family whose language model is not read here; whoever calls sets `engine`, or reads it. Raises BadCheckpoint."""
        chat = cls(Vocabulary.of(home), Unread(), load, shelf, home.fingerprint)
        chat.clones = home.has("soundstorm")
        chat.enhances = home.has("image_enhancer") and not home.has("unclip")
        if home.name == "mini":
            chat.letters = 80  # it learnt from short sentences: of 120 letters at once it leaves a third unsaid, of 300 most
        return chat

    def read(self, tick: Callable[[int, int], None] | None = None) -> None:
        """Read the language model, if that is not done yet. tick: as for open(). Raises UserError, BadCheckpoint."""
        if self._model is not None:
            self.engine = self._model(tick)
            self._model = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of what can be sent and made, besides words."""
        return tuple(self.vocabulary.ranges)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the codecs that are in memory."""
        if self._shelf is not None:
            return tuple(f"{name} ({purpose})" if purpose != "both" else name for name, purpose in self._shelf.held)
        return tuple(self._codecs)

    @property
    def budgeted(self) -> bool:
        """Whether codecs are put away to stay within a budget of memory."""
        return self._shelf is not None

    def codec(self, name: str, purpose: str = "both") -> Codec:
        """The codec of one modality. purpose: encode or decode, if only that is wanted."""
        if self._shelf is not None:
            from anygpt_demo.memory import SPLIT

            return self._shelf.get(name, purpose if name in SPLIT else "both")
        with self._lock:
            if name not in self._codecs:
                self._codecs[name] = self._load(name)
            return self._codecs[name]

    def listen(self, message: Message, conversation: Conversation) -> Turn:
        """A message to a turn: media become codes, and files in the session folder. Raises UserError."""
        text = message.text.strip()
        if len(text) > TEXT_LIMIT:
            raise BadText(f"This message has {len(text):,} characters.", f"The limit is {TEXT_LIMIT:,}.", "Send it in parts.")
        if not text and not message.media:
            raise BadText("This message is empty.", "It has neither words nor a file.", "Write, say or attach something.")
        parts: list[MediaPart] = []
        for name, media in message.media:
            if isinstance(media, MediaPart):
                parts.append(media)
                continue
            codes = self.codec(name, "encode").encode(media)[: self.vocabulary.ranges[name].modality.frames.stop - 1]
            parts.append(MediaPart(name, codes, _keep(conversation, name, media, generated=False)))
        return arranged(parts, text, message.order)

    def reply(
        self,
        conversation: Conversation,
        message: Message | Turn,
        *,
        voice: Voice | None = None,
        seed: int = 0,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        stop: threading.Event | None = None,
        opening: Opening | None = None,
    ) -> Iterator[Update]:
        """Answer one message (a Turn: one that was read before). Updates come in the model's order; both turns are
        journalled before the last one. opening: how the reply begins.

        Equal conversation, message, voice, seed, settings and opening give an equal reply.
        """
        return _Reply(self, conversation, voice, seed, settings, stop or threading.Event(), opening).run(message)

    def opening(self, turn: Turn, parts: int, within: int = 0) -> Opening:
        """The first `parts` parts of a reply, as the beginning of another one. Raises UserError if it cannot be cut there.

        within: word pieces or whole frames of the part after them that are kept, too; its block stays open.
        """
        places = self._places(turn)
        media = tuple(part for part in turn.parts[:parts] if isinstance(part, MediaPart))
        following = turn.parts[parts] if parts < len(turn.parts) else None
        if within:
            first, last = places[parts] if following is not None else (0, 0)
            layers = following.codes.shape[1] if isinstance(following, MediaPart) else 1
            marks = 2 if isinstance(following, MediaPart) else 0
            if not 0 < within * layers <= last - first - marks:
                raise BadText("This part is gone.", "The chat has changed since.", "Look at the newest reply.")
            end = first + marks // 2 + within * layers
        elif following is None:
            end = len(turn.ids)
        elif isinstance(following, MediaPart):
            end = places[parts][0]
        else:
            end = places[parts - 1][1] if parts else 0
        return Opening(turn.ids[:end], media, tuple(known_shares(turn)[:end]))

    def _places(self, turn: Turn) -> list[tuple[int, int]]:
        try:
            return protocol.places(self.vocabulary, turn)
        except ValueError as error:
            raise BadText("This reply cannot be cut.", "It was not written by this model.", "Send your message again.") from error

    def again(
        self,
        conversation: Conversation,
        index: int,
        number: int,
        *,
        voice: Voice | None = None,
        seed: int = 0,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        stop: threading.Event | None = None,
    ) -> Iterator[Update]:
        """Write the codes of one picture or sound (part `number` of turn `index`) anew; the rest of the reply stays."""
        return _Reply(self, conversation, voice, seed, settings, stop or threading.Event()).again(index, number)

    def render(
        self,
        conversation: Conversation,
        index: int,
        number: int,
        *,
        voice: Voice | None = None,
        seed: int = 0,
        rendering: Rendering = Rendering(),  # noqa: B008 - frozen
    ) -> Iterator[Update]:
        """Decode the codes of one part once more: the same words in another voice, the same codes from other noise."""
        return _Reply(self, conversation, voice, seed, Settings(rendering=rendering), threading.Event()).render(index, number)

    def put_into_words(
        self, conversation: Conversation, index: int, number: int, *, stop: threading.Event | None = None
    ) -> Iterator[Update]:
        """What the model makes of one picture or sound (part `number` of turn `index`), searched for with beams and kept as its text.

        Of speech the words that were said, of anything else a caption. No id of the conversation changes.
        """
        turn = conversation.turns[index]
        part = turn.parts[number]
        assert isinstance(part, MediaPart)
        spoken = part.modality == "speech"
        asked = Turn("human", (part,) if spoken else (part, TextPart(QUESTIONS.get(part.modality, QUESTION))))
        wish = Settings(output="heard") if spoken else Settings(preset="paper", output="text")
        for update in self.reply(Conversation(), asked, settings=wish, stop=stop):
            if isinstance(update, Finished):
                reply = update.turn if update.reason != "stop" else None
                found = "" if reply is None else (reply.heard or "" if spoken else reply.text).strip()
                if found:
                    parts = (*turn.parts[:number], replace(part, text=found), *turn.parts[number + 1 :])
                    conversation.replace(index, replace(turn, parts=parts))
                elif update.reason not in ("stop", "fault", "refused"):
                    yield Card(
                        ModelFault("No words were found for this.", "The model wrote none.", "Ask about it in a message of your own.")
                    )
                update = replace(update, turn=None, human=None)
            yield update


def arranged(files: Sequence[MediaPart], text: str, order: Sequence[str | int] = ()) -> Turn:
    """A person's turn: its files and words, in an order as in Message, else files first."""
    if order:
        parts = tuple(TextPart(part) if isinstance(part, str) else files[part] for part in order)
        return Turn("human", parts, placed=True)
    return Turn("human", (*files, TextPart(text)) if text else tuple(files))


def known_shares(turn: Turn) -> list[float | None]:
    """How likely each id of a reply was; None where nobody noted it."""
    shares = turn.facts.get("shares")
    if not isinstance(shares, list) or len(shares) != len(turn.ids):
        return [None] * len(turn.ids)
    return [share if isinstance(share, int | float) else None for share in shares]


def changed(turns: Sequence[Turn]) -> list[list[int]]:
    """Which of these turns have parts that were made anew: index, and how often. What is written next has seen them so."""
    return [[index, len(turn.facts["edits"])] for index, turn in enumerate(turns) if turn.facts.get("edits")]


def _keep(conversation: Conversation, label: str, media: Media, generated: bool = True) -> str | None:
    """Write media into the session folder, if there is one."""
    if conversation.journal is None:
        return None
    data, suffix = write_file(media, generated)
    return conversation.journal.save(label, suffix, data)


class Sound:
    """A sound that is decoded while its codes come. A fault ends it quietly: the codes can still be decoded as a whole."""

    def __init__(self, name: str, streamer: Any) -> None:
        self.name, self.streamer = name, streamer
        self.frames = 0
        self.pieces: list[Audio] = []
        self.failed = False

    def feed(self, frames: Iterable[Sequence[int] | np.ndarray]) -> Iterator[Piece]:
        """Frames of codes to the pieces that they complete."""
        import numpy as np

        for frame in frames:
            self.frames += 1
            yield from self._told(lambda frame=frame: self.streamer.feed(np.asarray(frame)))  # type: ignore[misc]

    def finish(self) -> Iterator[Piece]:
        """The rest."""
        yield from self._told(lambda: self.streamer.finish())

    def _told(self, work: Callable[[], list[Audio]]) -> Iterator[Piece]:
        if self.failed:
            return
        try:
            found = work()
        except Exception:  # the border to the codecs
            log.exception("the %s codec failed on the way", self.name)
            self.failed = True
            return
        for audio in found:
            start = sum(piece.seconds for piece in self.pieces)
            self.pieces.append(audio)
            yield Piece(self.name, audio, start)

    def joined(self) -> Audio:
        """The whole sound."""
        import numpy as np

        return Audio(np.concatenate([piece.samples for piece in self.pieces]), self.pieces[0].rate_hz)


class _Reply:
    """The state of one reply while it is being made."""

    def __init__(
        self,
        chat: Chat,
        conversation: Conversation,
        voice: Voice | None,
        seed: int,
        settings: Settings,
        stop: threading.Event,
        opening: Opening | None = None,
    ) -> None:
        self.chat, self.conversation, self.voice, self.seed, self.settings, self.stop = chat, conversation, voice, seed, settings, stop
        self.opening = opening or Opening()
        self.one_block = False  # end when a block closes
        self.sound: Sound | None = None  # the sound whose codes are being written
        self.frames: list[tuple[int, ...]] = []  # of the open block, if its length is known
        self.drawn: tuple[Media | UserError, float] | None = None  # what became of it before its end mark, and the seconds
        self.parts: list[Part] = []
        self.words: list[str] = []
        self.heard: list[str] | None = None
        self.times = dict.fromkeys(("encode", "first_token", "generate", "decode", "total"), 0.0)
        self.tokens = 0
        self.shares: list[float | None] = []  # how likely each written id was, if the engine tells
        self.reason = "fault"
        self.began = time.perf_counter()

    def run(self, message: Message | Turn) -> Iterator[Update]:
        human: Turn | None = None
        try:
            if isinstance(message, Turn):
                human = message
            else:
                for name, media in message.media:
                    if not isinstance(media, MediaPart):
                        yield Stage("listening", name)
                human = self.chat.listen(message, self.conversation)
            self.conversation.add(human)
            self.times["encode"] = self._since()
            prompt, dropped = self._prompt(self.conversation)
        except Exception as error:  # the border to the codecs: whatever they raise must not take the page down
            if human is not None:
                self.conversation.undo()
            if not isinstance(error, UserError):
                log.exception("a message could not be read")
            yield Card(error if isinstance(error, UserError) else fault("Your message could not be read.", error))
            yield self._finished("refused", None, None)
            return
        if dropped:
            yield Note(f"The oldest {dropped} messages no longer fit into the model's memory and were left out.")
        parser = protocol.Parser(self.chat.vocabulary)
        yield from self._open(parser)
        yield Stage("thinking")
        try:
            texts = self._recital(human)
            yield from self._recite(texts, parser) if len(texts) > 1 else self._write(prompt, parser)
        except GeneratorExit:  # nobody listens any more: keep what was written
            self._abandon(parser)
            raise
        yield from self._end(human, parser)

    def _open(self, parser: protocol.Parser) -> Iterator[Update]:
        """Take over what the reply begins with."""
        media, ids = iter(self.opening.media), self.opening.ids
        closed = max((place for place, number in enumerate(ids) if number in self.chat.vocabulary.ends), default=-1)
        for place, number in enumerate(ids):
            for event in parser.feed(number):
                if isinstance(event, protocol.BlockClosed):
                    part = next(media)
                    self.parts.append(part)
                    yield Kept(part)
                elif place > closed or not isinstance(event, protocol.BlockProgress):
                    yield from self._take(event)

    def again(self, index: int, number: int) -> Iterator[Update]:
        """One block written anew, or all blocks of a text that is one sound."""
        from anygpt_demo import longer

        turn = self.conversation.turns[index]
        self.one_block = True
        try:
            first, last = self.chat._places(turn)[number]
            prompt, _ = self._prompt(Conversation(self.conversation.turns[:index]))
        except UserError as error:
            yield Card(error)
            yield self._finished("refused", None, None)
            return
        self.opening = Opening(turn.ids[: first + 1])
        parser = protocol.Parser(self.chat.vocabulary)
        for given in turn.ids[first : first + 1]:
            parser.feed(given)
        yield Progress(self.chat.vocabulary.starts[turn.ids[first]], 0, None)
        if texts := self._blocks(turn, number):
            yield from self._say(longer.Recital(self.chat, self.settings, self.voice, self.seed, self.stop), texts)
        else:
            yield from self._write(prompt, parser)
        new = next((part for part in self.parts if isinstance(part, MediaPart)), None)
        if new is None:
            yield self._finished(self.reason, None, None)
            return
        ids = (*turn.ids[:first], *self.chat.vocabulary.block(new.modality, new.codes), *turn.ids[last:])
        edit = {"part": number, "seed": self.seed, "settings": self.settings.record(), "was": list(turn.ids[first:last])}
        edit |= {"reason": self.reason, "seen": changed(self.conversation.turns[:index])}
        facts = {**turn.facts, "edits": [*turn.facts.get("edits", ()), edit]}
        if self.shares or "shares" in facts:  # those of the rest stay, though what follows was drawn after the old block
            known, drawn = known_shares(turn), self.shares[: new.codes.size]
            end = self.shares[new.codes.size : new.codes.size + 1] if self.reason == "eos" else []
            fresh = [_rounded(share) for share in (*drawn, *[None] * (new.codes.size - len(drawn)), *(end or [None]))]
            facts["shares"] = [*known[: first + 1], *fresh, *known[last:]]
        yield self._exchanged(index, number, new, ids, facts)

    def render(self, index: int, number: int) -> Iterator[Update]:
        """One part decoded once more. Of a text that is one sound only the first block's codes are kept: the others are written again."""
        from anygpt_demo import longer

        turn = self.conversation.turns[index]
        part = turn.parts[number]
        assert isinstance(part, MediaPart)
        if texts := self._blocks(turn, number):
            made = [turn.facts, *(edit for edit in turn.facts.get("edits", ()) if edit["part"] == number)][-1]  # of these codes
            settings = Settings.of(made.get("settings", {}))
            yield from self._say(longer.Recital(self.chat, settings, self.voice, int(made.get("seed", 0)), self.stop, part.codes), texts)
        else:
            yield from self._decode(protocol.BlockClosed(part.modality, part.codes))
        new = self.parts[0]
        assert isinstance(new, MediaPart)
        if new.codes.shape == part.codes.shape and (new.codes == part.codes).all():
            new = replace(new, text=part.text)
        self.reason = "eos"
        yield self._exchanged(index, number, new, turn.ids, turn.facts) if new.file else self._finished("fault", None, None)

    def _exchanged(self, index: int, number: int, new: MediaPart, ids: tuple[int, ...], facts: Mapping[str, Any]) -> Finished:
        """Put a new part in the place of an old one."""
        turn = self.conversation.turns[index]
        parts = (*turn.parts[:number], new, *turn.parts[number + 1 :])
        self.conversation.replace(index, replace(turn, parts=parts, ids=ids, facts=facts))
        return self._finished("stop" if self.reason == "stop" else "eos", self.conversation.turns[index], None)

    def _since(self) -> float:
        return time.perf_counter() - self.began

    def _prompt(self, conversation: Conversation) -> tuple[list[int], int]:
        """The ids of the prompt, and how many turns were left out."""
        tokens, history = self.chat.vocabulary, self.settings.history
        context = self.chat.engine.context
        room = context - max(min(RESERVE, context // 2), SHORTEST_REPLY + len(self.opening.ids))

        def count(turns: Sequence[Turn]) -> int:
            return len(protocol.encode(tokens, turns, history=history))

        turns, dropped = conversation.fit(count, room, context - SHORTEST_REPLY - len(self.opening.ids))
        return protocol.encode(tokens, turns, history=history), dropped

    def _write(self, prompt: list[int], parser: protocol.Parser) -> Iterator[Update]:
        """Run the engine and turn what it writes into updates; a failure of it becomes a card."""
        wish = self.settings
        given = self.opening.ids
        budget = min(wish.max_new, self.chat.engine.context - len(prompt) - len(given))
        newest = next((turn for turn in reversed(self.conversation.turns) if turn.role == "human"), None)
        grammar = Grammar(
            self.chat.vocabulary,
            budget=budget + len(given),
            preset=wish.preset,
            limits=wish.limits,
            force=None if self.one_block else wish.output,
            force_after=wish.lead,
            forbid=() if self.one_block else wish.forbid,
            sampling=wish.sampling,
            heard_s=None if newest is None else protocol.spoken_s(self.chat.vocabulary, newest),
        )
        grammar.begin(given)
        options: dict[str, Any] = {}
        keep = getattr(self.chat.engine, "cache", None)
        if keep is not None:
            if self.conversation.cache is None:
                self.conversation.cache = keep()
            options["cache"] = self.conversation.cache
        try:
            halt = Halt(self.stop)
            generation = self.chat.engine.generate([*prompt, *given], grammar, seed=self.seed, stop=halt, max_new=budget, **options)
            with closing(Ahead(generation, halt).ids()) as numbers:
                for number in numbers:
                    if self.stop.is_set():
                        break
                    self.tokens += 1
                    self.times["first_token"] = self.times["first_token"] or self._since()
                    for event in parser.feed(number):
                        yield from self._take(event, number)
                        if self.one_block and isinstance(event, protocol.BlockClosed):
                            self.reason = "eos"
                            self.shares = list(getattr(generation, "shares", []))
                            return
            self.reason = "stop" if self.stop.is_set() else str(generation.reason or "budget")
            self.shares = getattr(generation, "shares", [])
        except UserError as error:
            self.conversation.cache = None
            yield Card(error)
        except Exception as error:  # the border to the model: whatever it raises must not take the conversation down
            log.exception("the language model failed")
            self.conversation.cache = None
            yield Card(fault("The language model failed.", error))
        for event in parser.finish(self.reason):
            yield from self._take(event)

    def _recital(self, human: Turn) -> list[str]:
        """The blocks of a text that is to be said as it stands: one that is quoted in the message, or the words to be read aloud."""
        from anygpt_demo import longer

        if self.settings.output != "speech" or "speech" not in self.chat.modalities:
            return []
        if self.opening.ids:
            return longer.blocks_of("".join(self.words), self.chat.letters) if self.settings.lead == 0 and self.words else []
        return (
            longer.blocks_of(longer.quoted(human.text), self.chat.letters)
            if all(isinstance(part, TextPart) for part in human.parts)
            else []
        )

    def _recite(self, texts: Sequence[str], parser: protocol.Parser) -> Iterator[Update]:
        """Say a text that is too long for one block, as one sound. In the history stays its first block."""
        from anygpt_demo import longer

        tokens, name = self.chat.vocabulary, "speech"
        for number in () if self.opening.ids else tokens.encode_text(f" {' '.join(texts)} "):
            for event in parser.feed(number):
                yield from self._take(event)
        for event in parser.feed(tokens.ranges[name].start):
            if isinstance(event, protocol.TextDelta):
                yield from self._take(event)
        self._close_words()
        yield Progress(name, 0, None)
        recital = longer.Recital(self.chat, self.settings, self.voice, self.seed, self.stop)
        try:
            yield from self._say(recital, texts)
        finally:  # also when nobody listens any more
            for frame in recital.first:
                parser.feed(tokens.ranges[name].first + int(frame[0]))
        if recital.first:
            parser.feed(tokens.ranges[name].end)
        parser.finish(self.reason)

    def _say(self, recital: Recital, texts: Sequence[str]) -> Iterator[Update]:
        """Texts as one sound, which becomes a part with the codes of the first of them."""
        import numpy as np

        name, file = "speech", None
        error: UserError | None = None
        try:
            yield from recital.say(texts, *self._codec(name))
            if recital.first:
                file = _keep(self.conversation, name, recital.audio)
        except UserError as failure:
            error = failure
        except Exception as failure:  # the border to the models, as in _write() and _decode()
            log.exception("a text could not be said")
            error = fault("The speech could not be made.", failure)
        finally:
            self.tokens += recital.written
        if error is None:
            self.reason = "stop" if self.stop.is_set() else "eos"
        if recital.first:
            part = MediaPart(name, np.stack(recital.first), file, seconds=round(recital.audio.seconds, 2))
            self.parts.append(part)
            folder = self.conversation.journal.folder if self.conversation.journal is not None else None
            if error is None:
                yield Made(part, recital.audio, self._since(), folder / file if folder is not None and file is not None else None)
        if error is not None:
            yield Card(error, name)

    def _blocks(self, turn: Turn, number: int) -> list[str]:
        """The texts of a speech that goes on after its codes: the words before it, block by block; else nothing."""
        from anygpt_demo import longer

        part = turn.parts[number]
        if not isinstance(part, MediaPart) or part.modality != "speech" or part.seconds is None:
            return []
        words = next((one.text for one in reversed(turn.parts[:number]) if isinstance(one, TextPart)), "")
        return longer.blocks_of(words, self.chat.letters)

    def _abandon(self, parser: protocol.Parser) -> None:
        """Journal what was written before the listener left; media that were not decoded keep their codes."""
        for event in parser.finish("stop"):
            if isinstance(event, protocol.BlockClosed):
                self._close_words()
                self.parts.append(MediaPart(event.modality, event.codes))
        self._store(parser)

    def _store(self, parser: protocol.Parser) -> Turn | None:
        """Journal the reply, or take the question back if nothing at all was written."""
        self._close_words()
        if not self.parts and not parser.kept and self.reason != "eos":
            self.conversation.undo()
            return None
        heard = "".join(self.heard) if self.heard is not None else None
        facts = {"seed": self.seed, "settings": self.settings.record(), "voice": self.voice.name if self.voice is not None else None}
        facts |= {"opening": len(self.opening.ids), "reason": self.reason, "model": self.chat.model}
        if self.shares or any(share is not None for share in self.opening.shares):
            # the ids that ended the reply are not kept; a mark that closed a block for it was not drawn
            given = len(self.opening.ids)
            known = [*(self.opening.shares or [None] * given)[:given], *self.shares, None]
            facts["shares"] = [_rounded(share) for share in known[: len(parser.kept)]]
        facts |= {"seen": seen} if (seen := changed(self.conversation.turns)) else {}
        turn = Turn("mmgpt", tuple(self.parts), heard, tuple(parser.kept), facts)
        self.conversation.add(turn)
        return turn

    def _end(self, human: Turn, parser: protocol.Parser) -> Iterator[Update]:
        self.times["generate"] = self._since() - self.times["encode"] - self.times["decode"]
        turn = self._store(parser)
        if self.reason == "budget":
            yield Note("The reply reached its length limit.")
        yield self._finished(self.reason, turn, human)

    def _finished(self, reason: str, turn: Turn | None, human: Turn | None) -> Finished:
        self.times["total"] = self._since()
        return Finished(reason, turn, {name: round(seconds, 4) for name, seconds in self.times.items()}, self.tokens, human)

    def _take(self, event: protocol.Event, number: int | None = None) -> Iterator[Update]:
        """One event of the parser to updates. number: the id that brought it, None at the end of the reply."""
        if isinstance(event, protocol.TextDelta):
            if event.heard:
                self.heard = [*(self.heard or []), event.text]
            else:
                self.words.append(event.text)
            yield Words(event.text, event.heard)
        elif isinstance(event, protocol.BlockOpened):
            self._close_words()
            yield Progress(event.modality, 0, self._total(event.modality))
            self._listen(event.modality)
        elif isinstance(event, protocol.BlockProgress):
            yield from self._progress(event)
        elif isinstance(event, protocol.BlockClosed):
            yield from self._decode(event)
        elif isinstance(event, protocol.BlockDropped):
            name = NAMES.get(event.modality, event.modality)
            self.drawn = None
            if self.stop.is_set():
                yield Note(f"An unfinished {name} was left out.")
            elif number in (None, self.chat.vocabulary.eos, self.chat.vocabulary.stop):
                cause = "The reply ended, or reached its limit, before it was whole."
                yield Card(ModelFault(f"The {name} was not finished.", cause, "Press Retry."))
            else:
                cause = "The model wrote a token into it that does not belong there."
                yield Card(ModelFault(f"The {name} is damaged and was left out.", cause, "Retry draws other ones; so does another seed."))

    def _codec(self, name: str) -> tuple[Codec, int]:
        """The codec of the part that comes next, and its seed."""
        rendering = self.settings.rendering
        seed = self.seed + len(self.parts) if rendering.seed is None else rendering.seed
        return registry.tune(self.chat.codec(name, "decode"), rendering), seed

    def _listen(self, name: str) -> None:
        """Begin to decode a sound whose codes will come. If that fails, it is tried again when all codes are there."""
        self.sound = None
        if self.chat.vocabulary.ranges[name].modality.kind != "audio":
            return
        try:
            codec, seed = self._codec(name)
            if hasattr(codec, "streamer"):
                self.sound = Sound(name, codec.streamer(voice=self.voice, seed=seed))
        except Exception:  # the border to the codecs, as in _decode(), which reports it
            log.exception("the %s codec cannot begin", name)

    def _media(self, name: str, codes: np.ndarray) -> Iterator[Media | Piece]:
        """A picture as it forms, a sound in pieces or at once; the last one counts. A stopped picture stays as rough as it is."""
        if self.sound is None and self.chat.vocabulary.ranges[name].modality.kind == "audio":
            self._listen(name)  # in one way always: equal codes give equal sounds
        if self.sound is not None:
            yield from self.sound.feed(codes[self.sound.frames :])
            yield from self.sound.finish()
            if not self.sound.failed:
                yield self.sound.joined()
                return
        codec, seed = self._codec(name)
        previews = getattr(codec, "previews", None)
        if previews is None:
            yield codec.decode(codes, voice=self.voice, seed=seed)
            return
        for picture in previews(codes, seed):
            yield picture
            if self.stop.is_set():
                return

    def _total(self, name: str) -> int | None:
        facts = self.chat.vocabulary.ranges[name].modality
        return facts.frames.start * facts.layers if len(facts.frames) == 1 else None

    def _close_words(self) -> None:
        if self.words:
            self.parts.append(TextPart("".join(self.words)))
            self.words.clear()

    def _progress(self, event: protocol.BlockProgress) -> Iterator[Update]:
        """One more frame. A picture begins to form with its last code: the model writes its end mark and what follows meanwhile."""
        import numpy as np

        layers, total = self.chat.vocabulary.ranges[event.modality].modality.layers, self._total(event.modality)
        if event.frames == 1:
            self.frames.clear()
        self.frames.append(event.frame)
        yield Progress(event.modality, event.frames * layers, total)
        if self.sound is not None:
            yield from self.sound.feed([event.frame])
        elif event.frames * layers == total and self.tokens:  # not before the model writes: it need not wait
            yield from self._draw(event.modality, np.asarray(self.frames, np.int64))

    def _draw(self, name: str, codes: np.ndarray) -> Iterator[Update]:
        """Codes to media, which wait as `drawn` for the end of their block; a codec that fails leaves its error there."""
        yield Stage("drawing", name)
        start = time.perf_counter()
        outcome: Media | UserError | None = None
        try:
            for step, found in enumerate(self._media(name, codes), 1):
                if isinstance(found, Piece):
                    yield found
                    continue
                outcome = found
                if isinstance(found, Picture):
                    yield Preview(name, found, step)
            assert outcome is not None
        except UserError as error:
            outcome = error
        except Exception as error:  # the border to the codecs: the rest of the reply must still arrive
            log.exception("the %s codec failed", name)
            outcome = fault(f"The {NAMES.get(name, name)} could not be made.", error)
        self.drawn = outcome, time.perf_counter() - start

    def _decode(self, event: protocol.BlockClosed) -> Iterator[Update]:
        """A block to its part; if it could not be decoded there is a card in the place of the part, and the codes stay in the history."""
        name = event.modality
        try:
            if self.drawn is None:
                yield from self._draw(name, event.codes)
        except GeneratorExit:  # nobody waits for the picture: its codes are kept
            self.parts.append(MediaPart(name, event.codes))
            raise
        assert self.drawn is not None
        (outcome, seconds), start, file = self.drawn, time.perf_counter(), None
        self.sound = self.drawn = None
        try:
            file = None if isinstance(outcome, UserError) else _keep(self.conversation, name, outcome)
        except UserError as error:
            outcome = error
        except Exception as error:  # the border to the disk: the rest of the reply must still arrive
            log.exception("the %s could not be kept", name)
            outcome = fault(f"The {NAMES.get(name, name)} could not be kept.", error)
        part = MediaPart(name, event.codes, file)
        self.parts.append(part)
        if isinstance(outcome, UserError):
            yield Card(outcome, name)
            return
        seconds += time.perf_counter() - start
        self.times["decode"] += seconds
        folder = self.conversation.journal.folder if self.conversation.journal is not None else None
        if event.forced and self._total(name) is None:
            yield Note(f"The {NAMES.get(name, name)} was cut short.")
        yield Made(part, outcome, seconds, folder / file if folder is not None and file is not None else None)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 3)


def fault(problem: str, error: Exception) -> ModelFault:
    """What a model raised, as a person is told."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ModelFault(problem, "There was not enough memory.", OUT_OF_MEMORY)
    return ModelFault(problem, f"The model stopped with an internal error ({type(error).__name__}).", "Try again with another seed.")
