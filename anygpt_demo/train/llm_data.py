"""Training documents of the language model: chats whose media are encoded clips, pictures and pieces on disk.

Folders (each is used as soon as it exists): runs/data/codes/pictures (codes.u16 n x 32, scenes.jsonl),
runs/data/codes/music (codes.u16 and replies.u16 n x 125 x 4, pieces.jsonl), runs/data/speech/<set> (codes.u16 frames x 8, index.json).
Until a speech set has codes, its phone labels stand in for them, so that listening and speaking can begin early.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from anygpt_demo import protocol
from anygpt_demo.conversation import MediaPart, Part, TextPart
from anygpt_demo.conversation import Turn as ChatTurn
from anygpt_demo.grammar import section_of
from anygpt_demo.synth import dialogues as chats
from anygpt_demo.synth import music, phrasings, scenes
from anygpt_demo.synth.dialogues import Dialogue, MusicPart, NotFound, PicturePart, SpeechPart, Want, Words
from anygpt_demo.synth.pictures import PLACE_INDEX, STYLE_INDEX, TIME_INDEX
from anygpt_demo.synth.public_text import pairs
from anygpt_demo.synth.speech_text import public_sentences
from anygpt_demo.synth.spoken import plain, understand
from anygpt_demo.synth.world import NOUNS, PLACES, STYLES, TIMES, noun_index
from anygpt_demo.train import word_spans
from anygpt_demo.train.speech_data import PHONES, UNKNOWN, SpeechSet
from anygpt_demo.vocabulary import Vocabulary

OWN = "own"  # the set in the voice that mini learns to speak with
HUMAN = "human"  # the set of recordings
SPEECH_SETS = ("synth1", "synth0", HUMAN, OWN)
LONGEST_CLIP = 300  # frames
NO_CLIP = -1  # number of a spoken part whose codes are not there; smaller numbers are mixed sentences
ENOUGH_CLIPS = 50  # of a voice whose words are mixed
READERS = 0.35  # share of mixed sentences that are of people's words
OFTEN = 5  # times that a clip of a person stands among all clips, for there is an hour of these and a day of others
LETTERS = "_ 'abcdefghijklmnopqrstuvwxyz"  # classes of the listening aid; "_" is blank
MUSIC_FRAMES = {"": 125, "test_": 250}  # of an encoded piece, by set
WEIGHTS = {"text": 2.0, "image": 1.5, "speech": 0.8, "music": 0.5}  # of predicted tokens in replies: words decide what the codes must show
READ_WEIGHTS = {"text": 0.1, "speech": 0.05, "image": 0.0, "music": 0.1}  # of tokens in a person's message
SOUNDS = 5  # of a score: any onset, melody, kick, snare, cymbals (music_data.Labels)
FAR = 31  # frames: a sound that begins later than that counts as this far
FACTS = (
    "tempo",
    "drums",
    "genre",
    "lead",
    "mode",
    "beat",
)  # what a frame of music looks at: words before the piece, and the frame one beat ago
KNOWN: dict[str, tuple[object, ...]] = {  # what somebody who listens to a piece can tell: fields of music.Piece and their classes
    "tempo": tuple(music.TEMPOS), "drums": (False, True), "genre": music.GENRES, "family": tuple(music.FAMILIES),
    "lead": tuple(music.PROGRAMS), "mode": tuple(music.MODES), "mood": tuple(music.MOODS),
}  # fmt: skip
TOLD_FROM, TOLD_EVERY = 15, 5  # frames of a piece after which the facts are asked for, and how often from then on
PAINTED = {  # classes of what the codes of a picture show: of a thing, and of the scene
    "noun": len(NOUNS) + 1, "x": 8, "y": 8, "place": len(PLACES), "time": len(TIMES), "style": len(STYLES),
}  # fmt: skip
SLOT = 8  # codes: the scene, then one thing after another (train/picture_tokenizer.py)
PLAYED = 1 + SOUNDS + 2 * len(FACTS) + len(KNOWN)  # columns of Document.played
OPENING, FIRST = 8.0, 6  # factor on the codes of so many first frames of music: what is asked for shows there, the rest follows from it
BRIEF = 25  # frames at most of a piece that is only begun
MISLED = 25  # frames at most that somebody else seems to play, and between such stretches
LAYER_WEIGHTS = {"music": (4.0, 3.0, 2.0, 1.0)}  # of codebooks: rhythm is in the first, who plays in the second, harmony in the third


def read_scene(row: Mapping[str, object]) -> scenes.Scene:
    """A scene from its JSON form; further fields are ignored."""
    things = tuple(
        scenes.Thing(thing["noun"], tuple(scenes.Box(**box) for box in thing["boxes"]), thing["colour"], thing["size"])
        for thing in row["things"]  # type: ignore[attr-defined]
    )
    names = [name for name in scenes.Scene.__dataclass_fields__ if name != "things"]
    return scenes.Scene(things=things, **{name: row[name] for name in names})  # type: ignore[arg-type]


class FactIndex:
    """Rows of a set by their facts."""

    def __init__(self, facts: Sequence[Mapping[str, str]]) -> None:
        self.facts = facts
        self.rows: dict[tuple[str, str], list[int]] = {}
        for number, row in enumerate(facts):
            for pair in row.items():
                self.rows.setdefault(pair, []).append(number)

    def find(self, rng: random.Random, want: Want) -> int:
        """A random row with all wanted facts. Raises NotFound."""
        if not want:
            return rng.randrange(len(self.facts))
        lists = sorted((self.rows.get(pair, []) for pair in want.items()), key=len)
        matching = [number for number in lists[0] if want.items() <= self.facts[number].items()]
        if not matching:
            raise NotFound
        return rng.choice(matching)


class PictureSet:
    """Encoded pictures with their scenes. codes: (n, 32) uint16; previous: by the tokenizer before, or None.

    prefix: "test_" for the pictures that only evaluation uses.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        with (folder / f"{prefix}scenes.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        codes = np.fromfile(folder / f"{prefix}codes.u16", np.uint16).reshape(-1, 32)
        usable = [number for number in range(min(len(rows), len(codes))) if not rows[number].get("crowded")]
        self.codes = codes[usable]
        before = folder / f"{prefix}previous.u16"
        former = np.fromfile(before, np.uint16).reshape(-1, 32) if before.is_file() else None
        self.previous = former[usable] if former is not None and len(former) == len(codes) else None
        self.scenes = [read_scene(rows[number]) for number in usable]
        self.index = FactIndex([chats.scene_facts(scene) for scene in self.scenes])


class MusicSet:
    """Encoded pieces. codes: (n, frames, 4) uint16; replies: the same pieces as mini plays them (music_codes.py);
    bits: (n, frames) uint8, what the score begins in each frame, or None.

    prefix: as in PictureSet.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        names = set(music.Piece.__dataclass_fields__)
        with (folder / f"{prefix}pieces.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        self.pieces = [music.Piece(**{key: value for key, value in row.items() if key in names}) for row in rows]
        codes = np.fromfile(folder / f"{prefix}codes.u16", np.uint16)
        self.codes = codes.reshape(-1, MUSIC_FRAMES[prefix], 4)
        path = folder / f"{prefix}replies.u16"
        replies = np.fromfile(path, np.uint16) if path.is_file() else codes
        self.replies = replies.reshape(self.codes.shape) if replies.size == codes.size else self.codes
        self.pieces = self.pieces[: len(self.codes)]
        bits = np.fromfile(folder / f"{prefix}bits.u8", np.uint8) if (folder / f"{prefix}bits.u8").is_file() else np.zeros(0, np.uint8)
        self.bits = bits.reshape(self.codes.shape[:2]) if len(bits) == self.codes[..., 0].size else None
        self.index = FactIndex([chats.piece_facts(piece) for piece in self.pieces])


@dataclass(frozen=True)
class SpokenClip:
    """A clip with words. frames: (first, count) in its set; ends: frame after each word, counted from the clip's first; None if unknown."""

    set: str
    first: int
    count: int
    item: chats.SpokenItem
    voice: str
    ends: np.ndarray | None = None


@dataclass(frozen=True)
class Chunk:
    """A few words in a row, cut out of a clip. frames: first and end in its set; ends: as in SpokenClip, from the chunk's first frame."""

    first: int
    end: int
    words: tuple[str, ...]
    ends: np.ndarray


class ClipSet:
    """All spoken clips with words of a few sets: level-1 codes, or phone classes where a set has no codes yet."""

    def __init__(self, folder: Path, names: Sequence[str], split: str = "train") -> None:
        self.clips: list[SpokenClip] = []
        self.streams: dict[str, np.ndarray] = {}
        self.sounds: dict[str, np.ndarray] = {}  # phones of the frames
        self.disturbed: dict[str, np.ndarray] = {}  # level 1 of the same clips through another microphone
        self.coded = (folder / names[0] / "codes.u16").is_file()
        for name in names:
            if (folder / name / ("codes.u16" if self.coded else "index.json")).is_file():
                self._read(folder / name, name, split)
        self.by_kind: dict[tuple[str, bool], list[int]] = {}  # kind, whether of the own voice
        self.by_text: dict[tuple[str, bool], list[int]] = {}
        for number, clip in enumerate(self.clips):
            for kind in chats.spoken_kinds(clip.item):
                rows = self.by_kind.setdefault((kind, clip.set == OWN), [])
                rows += [number] * (OFTEN if clip.set == HUMAN and kind == "any" else 1)
            self.by_text.setdefault((clip.item.text, clip.set == OWN), []).append(number)
        self.own = any(clip.set == OWN for clip in self.clips)
        self.by_voice: dict[tuple[str, str], list[int]] = {}  # clips whose words can be cut apart
        for number, clip in enumerate(self.clips):
            if self.coded and clip.ends is not None:
                self.by_voice.setdefault((clip.set, clip.voice), []).append(number)
        voices = [key for key, rows in sorted(self.by_voice.items()) if len(rows) >= ENOUGH_CLIPS]
        self.voices = [key for key in voices if key[0] not in (OWN, HUMAN)]
        self.own_voices = [key for key in voices if key[0] == OWN] or self.voices
        self.readers = [key for key in voices if key[0] == HUMAN]

    def _read(self, folder: Path, name: str, split: str) -> None:
        data = SpeechSet(folder)
        stream = np.asarray(data.phones)
        if self.coded:
            stream = np.fromfile(folder / "codes.u16", np.uint16).reshape(-1, 8)[:, 0]
            if (folder / "codes_aug1.u16").is_file():
                self.disturbed[name] = np.fromfile(folder / "codes_aug1.u16", np.uint16)
        self.streams[name], self.sounds[name] = stream, np.asarray(data.phones)
        ends = word_spans.read(data)
        for number, clip in enumerate(data.clips):
            spans = None if ends is None else ends[number]
            text = plain(clip.text)
            whole = clip.frames_start + clip.frames <= len(stream)
            if not text or not whole or clip.split != split or clip.frames > LONGEST_CLIP or (not self.coded and name == HUMAN):
                continue
            item = understand(text) if name != HUMAN else chats.SpokenItem(text, "other", {}, clip.text)
            known = spans if spans is not None and len(spans) and spans[-1] == clip.frames else None
            self.clips.append(SpokenClip(name, clip.frames_start, clip.frames, item, clip.voice, known))

    def codes(self, number: int, disturbed: bool = False) -> np.ndarray:
        """int64 (frames,) of one clip; disturbed: through another microphone, where that was encoded. Negative numbers: see mixed()."""
        name, spans = self._spans(number)
        stream = self.disturbed.get(name) if disturbed else None
        if stream is None or len(stream) < max(end for _, end in spans):
            stream = self.streams[name]
        codes = np.concatenate([stream[first:end] for first, end in spans]).astype(np.int64)
        return np.where(codes == UNKNOWN, 0, codes) if not self.coded else codes

    def _spans(self, number: int) -> tuple[str, list[tuple[int, int]]]:
        """The set of a clip, and its frames there: first and end of each piece."""
        if number < NO_CLIP:
            name, chunks = self._chunks(number)
            return name, [(chunk.first, chunk.end) for chunk in chunks]
        clip = self.clips[number]
        return clip.set, [(clip.first, clip.first + clip.count)]

    def phones(self, number: int) -> np.ndarray:
        """int64 (frames, 2): the phone of each frame and the next other phone, -1 where unknown."""
        name, spans = self._spans(number)
        phones = np.concatenate([self.sounds[name][first:end] for first, end in spans]).astype(np.int64)
        phones[phones == UNKNOWN] = -1
        starts = np.flatnonzero(changes(phones))
        following = np.append(phones[starts[1:]], -1)
        return np.column_stack([phones, np.repeat(following, np.diff(starts, append=len(phones)))])

    def words(self, number: int) -> np.ndarray | None:
        """int64 (frames,): which word of its text each frame of a clip says; None if that is not known."""
        if number < NO_CLIP:
            _, chunks = self._chunks(number)
            starts = np.cumsum([0, *(len(chunk.words) for chunk in chunks)])
            parts = [np.searchsorted(chunk.ends, np.arange(chunk.end - chunk.first), "right") for chunk in chunks]
            return np.concatenate([part + start for part, start in zip(parts, starts, strict=False)])
        clip = self.clips[number]
        return None if clip.ends is None else np.searchsorted(clip.ends, np.arange(clip.count), "right")

    def find(self, rng: random.Random, kind: str, text: str | None, mine: bool) -> int:
        """A clip of a kind, or with just this text. mine: of the own voice, if there is one. Raises NotFound."""
        own = mine and self.own
        rows = self.by_kind.get((kind, own), []) if text is None else self.by_text.get((plain(text), own), [])
        if not rows:
            raise NotFound
        return rng.choice(rows)

    def mixed(self, rng: random.Random, mine: bool = False) -> SpeechPart:
        """A sentence that nobody wrote, of one voice: chunks of one to three words from its clips in a row. Raises NotFound.

        What comes next in it cannot be guessed, so listening and speaking have to look. Its number is negative and says
        all, also whether it is of the own voice.
        """
        if not self.voices:
            raise NotFound
        number = NO_CLIP - 1 - 2 * rng.getrandbits(40) - mine
        text = " ".join(word for chunk in self._chunks(number)[1] for word in chunk.words)
        return SpeechPart(chats.SpokenItem(text, "words", {}, text), number)

    def _chunks(self, number: int) -> tuple[str, list[Chunk]]:
        """The set and the chunks of a mixed sentence: the first begins a clip and the last ends one."""
        rng = random.Random(number)
        mine = (NO_CLIP - 1 - number) % 2
        voice = rng.choice(self.own_voices if mine else self.readers if self.readers and rng.random() < READERS else self.voices)
        rows, count = self.by_voice[voice], rng.randint(2, 6)
        chunks: list[Chunk] = []
        for place in range(count):
            chunk = self._chunk(self.clips[rng.choice(rows)], rng, place == 0, place == count - 1)
            if sum(item.end - item.first for item in chunks) + chunk.end - chunk.first <= LONGEST_CLIP:
                chunks.append(chunk)
        return voice[0], chunks

    def _chunk(self, clip: SpokenClip, rng: random.Random, begins: bool, ends: bool) -> Chunk:
        assert clip.ends is not None
        words, width = clip.item.text.split(), rng.randint(1, 3)
        inner = max(1, len(words) - 1)  # the first and the last word stand beside a pause
        first = 0 if begins else max(0, len(words) - width) if ends else min(len(words) - 1, rng.randint(1, max(1, inner - 1)))
        last = len(words) if ends else max(first + 1, min(inner, first + width))
        low = int(clip.ends[first - 1]) if first else 0
        return Chunk(clip.first + low, clip.first + int(clip.ends[last - 1]), tuple(words[first:last]), clip.ends[first:last] - low)


def changes(codes: np.ndarray) -> np.ndarray:
    """bool (frames,): whether a code differs from the one before. codes: int (frames,)."""
    return np.concatenate([[True], codes[1:] != codes[:-1]])


def without_repeats(codes: np.ndarray) -> np.ndarray:
    """Each run of equal codes once. codes: int (frames,)."""
    return codes[changes(codes)]


def until_next(bits: np.ndarray) -> np.ndarray:
    """int64 (frames, SOUNDS): in how many frames each sound begins, at most FAR; -1 if the piece ends before. bits: int (frames,)."""
    frames = len(bits)
    begins = (bits[:, None] >> np.arange(SOUNDS)) & 1
    begins[1:] &= 1 - begins[:-1]  # the labels last two frames
    found = np.full((frames, SOUNDS), FAR, np.int64)
    wait = np.full(SOUNDS, FAR + frames)
    for frame in range(frames - 1, -1, -1):
        wait = np.where(begins[frame] == 1, 0, wait + 1)
        known = (wait < FAR + frames - frame) | (frames - frame > FAR)
        found[frame] = np.where(known, np.minimum(wait, FAR), -1)
    return found


def _texts(folder: Path) -> frozenset[str]:
    """Plain texts of the clips of a set; none without the set."""
    path = folder / "index.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return frozenset(plain(row["text"]) for row in rows)


class Library:
    """The source of chats for training: whatever is encoded by now."""

    heldout = False

    prefix = ""  # of the encoded pictures and pieces

    def __init__(self, runs: Path, seed: int = 0) -> None:
        self.runs = runs
        codes, name = runs / "data" / "codes", f"{self.prefix}codes.u16"
        self.pictures = PictureSet(codes / "pictures", self.prefix) if (codes / "pictures" / name).is_file() else None
        self.music = MusicSet(codes / "music", self.prefix) if (codes / "music" / name).is_file() else None
        self.clips = self._clips(runs / "data" / "speech")
        self.unseen = _texts(runs / "data" / "speech" / "synth_test")
        self.free = chats.FreeSource(seed, pool=6000)

    def _clips(self, folder: Path) -> ClipSet:
        return ClipSet(folder, SPEECH_SETS)

    @property
    def stamp(self) -> tuple[int, int, int, bool, float]:
        """Changes when there is more to learn from."""
        pictures, pieces = len(self.pictures.codes) if self.pictures else 0, len(self.music.codes) if self.music else 0
        path = self.runs / "data" / "codes" / "pictures" / f"{self.prefix}codes.u16"
        return pictures, pieces, len(self.clips.clips), self.clips.coded, path.stat().st_mtime if path.is_file() else 0.0

    def picture(self, rng: random.Random, want: Want) -> PicturePart:
        """See Source.picture(); unencoded scenes until pictures are encoded."""
        if self.pictures is None:
            return self.free.picture(rng, want)
        number = self.pictures.index.find(rng, want)
        return PicturePart(self.pictures.scenes[number], number)

    def piece(self, rng: random.Random, want: Want) -> MusicPart:
        """See Source.piece()."""
        if self.music is None:
            return self.free.piece(rng, want)
        number = self.music.index.find(rng, want)
        return MusicPart(self.music.pieces[number], number)

    def speech(self, rng: random.Random, kinds: Sequence[str], text: str | None = None, *, mine: bool = False) -> SpeechPart:
        """See Source.speech()."""
        kind = rng.choice(kinds) if text is None else ""
        if kind == "words":
            return self.clips.mixed(rng, mine)
        number = self.clips.find(rng, kind, text, mine)
        return SpeechPart(self.clips.clips[number].item, number)


def classes_of(piece: music.Piece) -> list[int]:
    """The class of each of KNOWN."""
    return [values.index(getattr(piece, name)) for name, values in KNOWN.items()]


def words_of(dialogue: Dialogue) -> set[str]:
    """The plain texts that are written in a chat."""
    return {plain(part.text) for turn in dialogue.turns for part in turn.parts if isinstance(part, Words)}


def unspoken(dialogue: Dialogue) -> bool:
    """Whether there is speech in a chat that nobody has spoken yet."""
    return any(isinstance(part, SpeechPart) and part.number == NO_CLIP for turn in dialogue.turns for part in turn.parts)


def unanswered(turn: chats.Turn) -> bool:
    """Whether a reply ends with what was heard: what it would say then is not told."""
    return turn.heard is not None and not turn.parts


@dataclass(frozen=True)
class Document:
    """One chat as ids, without the system sentence that all share.

    ids: int64 (n,); shown: int64 (n,), what is read of them, see Writer._stick(); weights: float32 (n,), of predicting each id from what is
    shown before it; heard: spans of spoken input as
    (first position, length, letters), for the listening aid; said: int64 (m, 5), for the speaking aids: a position from which
    a spoken code is predicted, the first and the end position of the word that it says, its phone and the phone after that (-1
    where unknown); copied: int64 (m, 3), for the copying aid: a position from which a word of a reply is predicted, and the first
    and the end position of the same word in the request; played: int64 (m, PLAYED), for the playing
    aids: a position from which the first code of a frame of music is predicted; in how many frames each of the SOUNDS of the score begins
    (-1 unknown); the first and the end position of each of the FACTS: in the words before the piece, and of the frame one beat
    earlier (-1 if they are not there); and the class of each of KNOWN; known: int64 (m, 1 + len(KNOWN)), for the knowing aid: a
    position in music that a person sent, and the class of each fact of the piece; painted: int64 (m, 1 + len(PAINTED)), for the
    painting aid: a position from which a code of a picture in a reply is predicted, and the classes of what the eight codes around it
    show (-1: not told there).
    """

    ids: np.ndarray
    shown: np.ndarray
    weights: np.ndarray
    heard: tuple[tuple[int, int, tuple[int, ...]], ...]
    said: np.ndarray
    copied: np.ndarray
    played: np.ndarray
    known: np.ndarray
    painted: np.ndarray
    pattern: str


@dataclass(frozen=True)
class View:
    """How media are shown. repeats: share of chats with the official 50 Hz repeats; the others show each run of codes once."""

    repeats: float = 0.0
    cut: float = 0.0  # share of chats that end where their first picture or music would begin: more words for the same time
    brief: float = 0.0  # share of chats that end soon after mini begins to play: what was asked for shows there, and the rest follows
    noise: float = 0.03  # share of spoken input frames that are masked or changed


class Writer:
    """Turns chats into documents."""

    def __init__(self, vocabulary: Vocabulary, library: Library) -> None:
        self.vocabulary = vocabulary
        self.library = library
        self.prefix = [vocabulary.bos, *vocabulary.encode_text(protocol.SYSTEM + "\n")]
        self.missing = {name for name, there in (("image", library.pictures), ("music", library.music)) if there is None}
        sections = section_of(vocabulary, np.arange(vocabulary.size))
        names = [("text", 0), *((name, layer) for name, item in vocabulary.ranges.items() for layer in range(item.modality.layers))]
        factors = np.array([LAYER_WEIGHTS[name][layer] if name in LAYER_WEIGHTS else 1.0 for name, layer in names] + [0.0], np.float32)
        replies, read = (np.array([table[name] for name, _ in names] + [0.0]) for table in (WEIGHTS, READ_WEIGHTS))
        self.reply_weight, self.read_weight = ((table * factors)[sections].astype(np.float32) for table in (replies, read))
        marks = (sections <= 0) & (np.arange(vocabulary.size) >= vocabulary.text_size)
        marks[[item.end for item in vocabulary.ranges.values()]] = True  # where a person's sound is cut says nothing of ours
        self.read_weight[marks] = 0.0  # marks of a person's turn are given

    def document(self, dialogue: Dialogue, rng: random.Random, view: View) -> Document | None:
        """A chat as ids; None if it needs codes that are not there yet."""
        repeats = rng.random() < view.repeats
        turns, truncated, letters, spoken = [], False, [], []
        played: list[tuple[music.Piece, np.ndarray | None]] = []
        sent: list[music.Piece] = []
        painted: list[scenes.Scene] = []
        for turn in dialogue.turns:
            parts: list[Part] = []
            for part in turn.parts:
                made, frames = self._part(part, rng, repeats, turn.role == "human")
                if made is None and turn.role == "human":
                    return None
                if isinstance(part, SpeechPart) and turn.role == "human":
                    letters.append(tuple(LETTERS.index(letter) for letter in part.item.text if letter in LETTERS[1:]))
                elif isinstance(part, SpeechPart):
                    spoken.append((len(part.item.text.split()), frames))
                elif isinstance(part, MusicPart) and turn.role != "human":
                    played.append((part.piece, frames))
                elif isinstance(part, MusicPart):
                    sent.append(part.piece)
                elif isinstance(part, PicturePart) and turn.role != "human":
                    painted.append(part.scene)
                if made is None:
                    truncated = True
                    made = self._unencoded(part)
                parts.append(made)
            turns.append(ChatTurn(turn.role, tuple(parts), turn.heard))
            if truncated or unanswered(turn):
                break
        ids, mask = protocol.training_ids(self.vocabulary, turns)
        ids, mask = ids[len(self.prefix) :], mask[len(self.prefix) :]
        if unanswered(turn):
            ids, mask = (found[: int(np.flatnonzero(ids == self.vocabulary.res)[-1]) + 1] for found in (ids, mask))
        weights = np.where(mask, self.reply_weight[ids], self.read_weight[ids]).astype(np.float32)
        if truncated or rng.random() < view.cut:
            starts = [self.vocabulary.ranges[name].start for name in (self.missing | {"speech"} if truncated else ("image", "music"))]
            cuts = np.flatnonzero(np.isin(ids, starts) & mask)
            cut = int(cuts[0]) + 1 if len(cuts) else len(ids)
            ids, weights, mask = ids[:cut], weights[:cut], mask[:cut]
        begun = np.flatnonzero((ids == self.vocabulary.ranges["music"].start) & mask)
        if len(begun) and rng.random() < view.brief:
            cut = int(begun[0]) + 1 + 4 * rng.randint(FIRST, BRIEF)
            ids, weights, mask = ids[:cut], weights[:cut], mask[:cut]
        ids = ids.astype(np.int64)
        spans = self._heard(ids, mask, letters)
        said, music, known = self._said(ids, mask, spoken), self._played(ids, mask, played), self._known(ids, mask, sent)
        self._damage(ids, spans, rng, view)
        weights[ids == self.vocabulary.unk] = 0.0
        self._stress(ids, mask, weights)
        shown = self._stick(ids, weights, music, rng)
        self._mislead(shown, weights, music, rng)
        paints = self._painted(ids, mask, painted)
        return Document(ids, shown, weights, spans, said, self._copied(ids), music, known, paints, dialogue.pattern)

    def _part(self, part: chats.Part, rng: random.Random, repeats: bool, read: bool) -> tuple[Part | None, np.ndarray | None]:
        """A part as codes, None if they are not there, and of a reply what each frame holds, None if that is not known.

        Of speech, columns: the word that each code says, its phone, the next phone; of music in how many frames each sound begins.
        """
        if isinstance(part, Words):
            return TextPart(part.text), None
        if isinstance(part, SpeechPart):
            return (None, None) if part.number == NO_CLIP else self._speech(part.number, rng, repeats, read)
        if part.number < 0:
            return None, None
        if isinstance(part, PicturePart):
            assert self.library.pictures is not None
            return MediaPart("image", self.library.pictures.codes[part.number].astype(np.int64)[:, None]), None
        assert self.library.music is not None
        codes = (self.library.music.codes if read else self.library.music.replies)[part.number].astype(np.int64)
        frames = self._music_frames(rng, read, len(codes))
        first = rng.randrange(len(codes) - frames + 1) if read else 0  # what mini plays begins with the first beat
        bits = None if read or self.library.music.bits is None else self.library.music.bits[part.number].astype(np.int64)
        return MediaPart("music", codes[first : first + frames]), None if bits is None else until_next(bits)[:frames]

    def _speech(self, number: int, rng: random.Random, repeats: bool, read: bool) -> tuple[Part, np.ndarray | None]:
        codes = self.library.clips.codes(number, disturbed=read and rng.random() < 0.4)
        words = None if read else self.library.clips.words(number)
        frames = None if words is None else np.column_stack([words, self.library.clips.phones(number)])
        if not repeats:
            kept = changes(codes)
            codes, frames = codes[kept], None if frames is None else frames[kept]
        return MediaPart("speech", self._stand_in(codes, rng, read)[:, None]), frames

    def _music_frames(self, rng: random.Random, read: bool, whole: int) -> int:
        share = rng.random()
        if share < 0.08:
            return whole
        if read:  # short stretches show most of a piece's facts for half the time
            return min(whole, rng.randint(30, 60) if rng.random() < 0.6 else rng.randint(75, 125))
        return min(whole, rng.choice((100, 125, 125)))

    def _stand_in(self, codes: np.ndarray, rng: random.Random, read: bool) -> np.ndarray:
        """Phone labels are too clean to stand in for codes: a few are changed or dropped."""
        if self.library.clips.coded or not read:
            return codes
        state = np.random.default_rng(rng.getrandbits(32))
        changed = np.where(state.random(len(codes)) < 0.08, state.integers(0, PHONES, len(codes)), codes)
        kept = changed[state.random(len(codes)) > 0.03]
        return kept if len(kept) else codes

    def _unencoded(self, part: chats.Part) -> Part:
        """Stands where codes are missing; the chat is cut before it, so nothing is learnt from it."""
        name, layers = ("image", 1) if isinstance(part, PicturePart) else ("music", 4) if isinstance(part, MusicPart) else ("speech", 1)
        return MediaPart(name, np.zeros((32 if name == "image" else 1, layers), np.int64))

    def _heard(self, ids: np.ndarray, mask: np.ndarray, letters: list[tuple[int, ...]]) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
        """Spans of spoken input: positions of its codes and end mark."""
        item = self.vocabulary.ranges["speech"]
        starts = [int(at) for at in np.flatnonzero(ids == item.start) if not mask[at]]
        ends = [int(at) for at in np.flatnonzero(ids == item.end) if not mask[at]]
        return tuple((start + 1, end - start, text) for start, end, text in zip(starts, ends, letters, strict=False))

    def _said(self, ids: np.ndarray, mask: np.ndarray, spoken: list[tuple[int, np.ndarray | None]]) -> np.ndarray:
        """Document.said; spoken: of each spoken reply the number of its words, and what each code says (see _part)."""
        item, found = self.vocabulary.ranges["speech"], [np.zeros((0, 5), np.int64)]
        starts = [int(at) for at in np.flatnonzero(ids == item.start) if mask[at]]
        for start, (count, frames) in zip(starts, spoken, strict=False):
            places = [(low, high) for _, low, high in self._words_before(ids, start)]
            if frames is None or len(places) != count or start + len(frames) >= len(ids):
                continue  # the reply writes other words than it says, or it was cut
            last = (start - 1, start)  # what follows the last word tells that all is said
            spans = np.array([*(places[word] for word in frames[:, 0]), last], np.int64)
            phones = np.concatenate([frames[:, 1:], [[-1, -1]]])
            found.append(np.column_stack([start + np.arange(len(spans)), spans, phones]))
        return np.concatenate(found)

    def _played(self, ids: np.ndarray, mask: np.ndarray, played: list[tuple[music.Piece, np.ndarray | None]]) -> np.ndarray:
        """Document.played; played: the pieces in the replies, and in how many frames each sound begins."""
        item, found = self.vocabulary.ranges["music"], [np.zeros((0, PLAYED), np.int64)]
        starts = [int(at) for at in np.flatnonzero(ids == item.start) if mask[at]]
        for start, (piece, whole) in zip(starts, played, strict=False):
            until = whole[: (len(ids) - start - 1) // 4] if whole is not None else ()  # it may be cut
            if len(until):
                facts = np.tile(self._named(self._words_before(ids, start), piece), (len(until), 1))
                query, beat = start + 4 * np.arange(len(until)), round(60 * item.modality.frame_rate_hz / piece.bpm)
                ago = np.where(np.arange(len(until)) >= beat, query + 1 - 4 * beat, -1)
                heard = np.tile(classes_of(piece), (len(until), 1))
                found.append(np.column_stack([query, until, facts, ago, np.where(ago < 0, -1, ago + 4), heard]))
        return np.concatenate(found)

    def _known(self, ids: np.ndarray, mask: np.ndarray, sent: list[music.Piece]) -> np.ndarray:
        """Document.known; sent: the pieces in a person's messages."""
        item, found = self.vocabulary.ranges["music"], [np.zeros((0, 1 + len(KNOWN)), np.int64)]
        starts = [int(at) for at in np.flatnonzero(ids == item.start) if not mask[at]]
        ends = [int(at) for at in np.flatnonzero(ids == item.end) if not mask[at]]
        for start, end, piece in zip(starts, ends, sent, strict=False):
            places = np.arange(start + 4 * TOLD_FROM, end, 4 * TOLD_EVERY)  # last codes of frames
            found.append(np.column_stack([places, np.tile(classes_of(piece), (len(places), 1))]))
        return np.concatenate(found)

    def _painted(self, ids: np.ndarray, mask: np.ndarray, painted: list[scenes.Scene]) -> np.ndarray:
        """Document.painted; painted: the scenes in the replies."""
        item, found = self.vocabulary.ranges["image"], [np.zeros((0, 1 + len(PAINTED)), np.int64)]
        starts = [int(at) for at in np.flatnonzero(ids == item.start) if mask[at]]
        for start, scene in zip(starts, painted, strict=False):
            if start + 4 * SLOT >= len(ids):
                continue  # it was cut
            rows = np.full((4 * SLOT, 1 + len(PAINTED)), -1, np.int64)
            rows[:, 0] = start + np.arange(4 * SLOT)
            rows[:SLOT, 4:] = PLACE_INDEX[scene.place], TIME_INDEX[scene.time], STYLE_INDEX[scene.style]
            rows[SLOT:, 1] = len(NOUNS)
            for slot, (thing, box) in enumerate(scene.slots()[:3], 1):
                rows[slot * SLOT : (slot + 1) * SLOT, 1:4] = noun_index(thing.noun), min(7, int(8 * box.x)), min(7, int(8 * box.y))
            found.append(rows)
        return np.concatenate(found)

    def _stress(self, ids: np.ndarray, mask: np.ndarray, weights: np.ndarray) -> None:
        """Raises the weights of the first frames of music: who plays what is learnt from the words only where nothing has been heard yet.

        All codes of a frame count alike, also those that change: a factor on these would teach to change too often.
        """
        item = self.vocabulary.ranges["music"]
        for start in np.flatnonzero((ids == item.start) & mask):
            ends = np.flatnonzero(ids[start:] == item.end)
            frames = ((int(ends[0]) if len(ends) else len(ids) - start) - 1) // 4
            played = slice(start + 1, start + 1 + 4 * frames)
            weights[played][: 4 * FIRST] *= OPENING

    def _stick(self, ids: np.ndarray, weights: np.ndarray, played: np.ndarray, rng: random.Random) -> np.ndarray:
        """The ids as they are read: in stretches of the music of half of the chats, a frame seems to be held.

        A model that misses a beat reads its own held note from then on, and would hold it for ever: it has to learn that the next beat
        comes all the same. In such a stretch only frames in which a sound begins are learnt; what the held note hides cannot be known.
        played: see Document. Weights of what is not learnt become 0.
        """
        shown = ids.copy()
        if not len(played) or rng.random() < 0.5:
            return shown
        frame, frames = 1, len(played)
        while (frame := frame + rng.randint(1, 40)) < frames:
            stop = min(frames, frame + rng.randint(2, 24))
            held = shown[played[frame - 1, 0] + 1 : played[frame - 1, 0] + 5]
            for place, (query, *until) in enumerate(played[frame:stop, : 1 + SOUNDS], 1):
                if query != played[frame - 1, 0] + 4 * place:
                    break  # the next piece
                shown[query + 1 : query + 5] = held
                if 0 not in until:
                    weights[query + 1 : query + 5] = 0.0
            frame = stop
        return shown

    def _mislead(self, shown: np.ndarray, weights: np.ndarray, played: np.ndarray, rng: random.Random) -> None:
        """In stretches of a quarter of the pieces somebody else seems to play: all but a frame's first code are of another piece.

        Who plays stands in the words and in all frames before, so a model looks at the frames; one that once draws another's code would go
        on with that. It has to learn to come back to what was asked for. What follows from a wrong code of the same frame is not learnt.
        """
        if not len(played) or self.library.music is None or rng.random() < 0.75:
            return
        item, pieces, frame = self.vocabulary.ranges["music"], self.library.music.replies, 0
        lows = np.array([item.layer(layer)[0] for layer in range(1, item.modality.layers)])
        while (frame := frame + rng.randint(1, MISLED)) < len(played):
            stop = min(len(played), frame + rng.randint(1, MISLED))
            other = pieces[rng.randrange(len(pieces))]
            first = rng.randrange(max(1, len(other) - MISLED))
            for query, codes in zip(played[frame:stop, 0], other[first:], strict=False):
                shown[query + 2 : query + 5] = lows + codes[1:].astype(np.int64)
                weights[query + 3 : query + 5] = 0.0
            frame = stop

    def _named(self, words: list[tuple[str, int, int]], piece: music.Piece) -> list[int]:
        """First and end position of the words for each of the FACTS, the last time that they stand there; -1, -1 if they do not."""
        told = [word for word, *_ in words]
        found: list[int] = []
        for name in (piece.tempo, "with drums" if piece.drums else "without drums", piece.genre, piece.lead, piece.mode):
            sought = name.split()
            last = (at for at in range(len(told) - len(sought), -1, -1) if told[at : at + len(sought)] == sought)
            at = next(last, None)
            found += [-1, -1] if at is None else [words[at][1], words[at + (0 if "drums" in sought else len(sought) - 1)][2]]
        return found

    def _words_before(self, ids: np.ndarray, start: int) -> list[tuple[str, int, int]]:
        """The words that are written right before `start`, each with its first and end position."""
        first = start
        while first > 0 and self.vocabulary.is_text(int(ids[first - 1])):
            first -= 1
        return self._words(ids, first, start)

    def _words(self, ids: np.ndarray, low: int, high: int) -> list[tuple[str, int, int]]:
        """Each word that is written from position `low` to `high`, in small letters, with its first and end position."""
        places = [at for at in range(low, high) if self.vocabulary.is_text(int(ids[at]))]
        pieces = [self.vocabulary.spell(int(ids[at])).decode("latin-1").lower() for at in places]
        owner = np.repeat(places, [len(piece) for piece in pieces])
        return [(word[0], int(owner[word.start()]), int(owner[word.end() - 1]) + 1) for word in re.finditer(r"[a-z']+", "".join(pieces))]

    def _copied(self, ids: np.ndarray) -> np.ndarray:
        """Document.copied: the words that replies share with the requests before them, in the same order; lone short words are left out."""
        found: list[tuple[int, int, int]] = []
        requests, replies = (np.flatnonzero(ids == mark).tolist() for mark in (self.vocabulary.human, self.vocabulary.mmgpt))
        for request, reply, end in zip(requests, replies, [*requests[1:], len(ids)], strict=False):
            asked, said = self._words(ids, request, reply), self._words(ids, reply, end)
            shared = SequenceMatcher(None, [word for word, *_ in asked], [word for word, *_ in said], autojunk=False)
            for block in shared.get_matching_blocks():
                if block.size < 2 and not (block.size and len(asked[block.a][0]) > 3):
                    continue
                for (_, first, last), (_, at, stop) in zip(asked[block.a :][: block.size], said[block.b :][: block.size], strict=True):
                    alike = np.array_equal(ids[first:last], ids[at:stop])  # a large first letter is spelled in other pieces
                    for here in range(at, stop):
                        piece = first + here - at
                        found.append((here - 1, piece, piece + 1) if alike else (here - 1, first, last))
        return np.array(found, np.int64).reshape(-1, 3)

    def _damage(self, ids: np.ndarray, spans: tuple[tuple[int, int, tuple[int, ...]], ...], rng: random.Random, view: View) -> None:
        """Masks short spans of spoken input (the unknown piece stands for them), so that listening relies on context too."""
        for first, length, _ in spans:
            masked = 0
            while masked < view.noise * (length - 1):
                width = rng.randint(1, 4)
                at = first + rng.randrange(max(1, length - 1 - width))
                ids[at : min(at + width, first + length - 1)] = self.vocabulary.unk
                masked += width


BOOST = {  # listening and speaking need most examples; music is long (500 ids for 2.5 s) and would fill the budget
    "s-t": 3.5, "t-s": 7.0, "p-p": 0.8, "t-p": 3.0, "p-t": 3.0, "t-m": 2.0, "m-t": 2.8, "m-t questions": 1.5, "m-m": 1.0, "p-m": 1.2,
    "m-p": 2.5, "t-t poem": 2.5, "t-t": 4.5, "t-t facts": 4.0, "t-t everyday": 3.0, "t-t fun": 2.5, "t-t personal": 2.5, "s-p": 2.5,
    "s-m": 1.5, "s-s": 2.0, "p-s": 2.5, "m-s": 3.0, "sm-t": 1.0, "sp-m": 0.6, "sm-p": 0.6, "s-t chat": 0.6, "t-p now": 1.3,
    "t-p then m": 0.6, "t-m then p": 0.6, "t-m now": 0.5, "t-m then t": 0.6,
}  # fmt: skip

UNSPOKEN = 0.6  # share of captions aloud in words that nobody has spoken: there are few clips of such sentences, and with those alone
# their words are learnt by heart, and nothing is looked at
JOINED = 0.35  # chance that a chat goes on with another one
LONGEST = 1400  # ids of a document: a long chat of few media


class Stream:
    """Endless documents in the mixture of the chats; modalities come in as their codes appear."""

    def __init__(
        self, vocabulary: Vocabulary, library: Library, data: Path | None, seed: int, scale: Mapping[str, float] | None = None
    ) -> None:
        self.writer = Writer(vocabulary, library)
        self.rng = random.Random(f"documents {seed}")
        self.public = pairs(data)
        self.names = [name for name, (_, needs, _) in chats.PATTERNS.items() if self._possible(name, needs)]
        self.weights = [chats.PATTERNS[name][0] * BOOST.get(name, 1.0) for name in self.names]
        for letter, factor in (scale or {}).items():  # by modality: s speech, p pictures, m music
            self.weights = [
                weight * (factor if letter in chats.PATTERNS[name][1] else 1.0)
                for name, weight in zip(self.names, self.weights, strict=True)
            ]
        if self.public:
            self.names.append("public")
            self.weights.append(2.0)
        if library.clips.clips:
            self.sentences = sorted({plain(text) for text in public_sentences(data)} | {text for text, _ in library.clips.by_text})
            self.lexicon = sorted({word for text in self.sentences for word in text.split()})
            self.names += ["copy", "listen"]
            self.weights += [25.0, 40.0]
        spelled = (vocabulary.spell(number).decode("latin-1") for number in range(vocabulary.text_size))
        self.pieces = [piece for piece in spelled if piece.strip().isascii() and piece.strip().isalpha()]

    def _possible(self, name: str, needs: str) -> bool:
        """Whether a pattern can be written: its inputs are encoded; an output that is not yet is cut off."""
        library = self.writer.library
        there = {"s": bool(library.clips.clips), "p": library.pictures is not None, "m": library.music is not None}
        if "s" in needs and not there["s"]:
            return False
        entering = name.split("-")[0] if name[0] != "t" else ""
        return all(there.get(letter, True) for letter in entering)

    def next(self, view: View) -> Document:
        """The next document: a chat, or chats about different things one after the other, as people go on with another thing."""
        while True:
            dialogue = self._dialogue()
            while self.rng.random() < JOINED:
                first, then = dialogue, self._dialogue()
                if unspoken(first) or unanswered(first.turns[-1]):  # it is cut there, so it comes last
                    first, then = then, first
                dialogue = Dialogue(f"{first.pattern}, {then.pattern}", first.turns + then.turns)
            document = self.writer.document(dialogue, self.rng, view)
            if document is not None and len(document.ids) <= LONGEST:
                return document

    def _dialogue(self) -> Dialogue:
        """A chat that training may read."""
        while True:
            name = self.rng.choices(self.names, self.weights)[0]
            try:
                dialogue = self._other(name)
            except NotFound:
                continue
            if not self.writer.library.unseen & words_of(dialogue):
                return dialogue  # a sentence that listening is tested on is not read either

    def _other(self, name: str) -> Dialogue:
        if name == "copy":
            return self._copy()
        if name == "listen":
            return self._listen()
        if name == "public":
            question, answer = self.rng.choice(self.public)
            return Dialogue("public", (chats.human(question), chats.mini(answer)))
        return chats.write(name, self.rng, self.writer.library, tries=4, spoken=self.rng.random() > UNSPOKEN)

    def _copy(self) -> Dialogue:
        """A request to say any words, answered up to where the speech would begin: the words have to be copied, not guessed.

        Half of the strange ones are made of word pieces, all equally often: what is hardly ever read is not copied either.
        """
        words = self.rng.choice(self.sentences).split()
        changed = self.rng.choice((0.0, 0.2, 0.5, 1.0))
        quote = " ".join(self._strange() if self.rng.random() < changed else word for word in words)
        if quote in self.writer.library.unseen:
            raise NotFound
        written = self.rng.choice((quote, quote, chats.capital(quote)))
        request = self.rng.choice(chats.typed(phrasings.ASK_SAY)).format(quote=written)
        reply = chats.mini(written + ".", SpeechPart(chats.SpokenItem(quote, "words", {}, quote), NO_CLIP))
        return Dialogue("copy", (chats.human(chats.capital(request)), reply))

    def _listen(self) -> Dialogue:
        """Any words aloud, without a question, and what was heard: whoever speaks is written down first, whatever is said."""
        speech = self.writer.library.speech(self.rng, ("any", "any", "words"))
        if speech.item.text in self.writer.library.unseen:
            raise NotFound
        return Dialogue("listen", chats.heard_turns(speech, chats.mini()))

    def _strange(self) -> str:
        """A word of the lexicon, or a piece of the vocabulary behind another word or alone."""
        if self.rng.random() < 0.5:
            return self.rng.choice(self.lexicon)
        piece = self.rng.choice(self.pieces)
        return piece.strip() if piece.startswith(" ") else self.rng.choice(self.lexicon) + piece

    def batches(self, view: View, tokens: int, pool: int = 160) -> Iterator[list[Document]]:
        """Documents of similar length, at most `tokens` padded ids a batch, in random order; one pool of documents."""
        documents = sorted((self.next(view) for _ in range(pool)), key=lambda item: len(item.ids) + self.rng.random() * 8)
        batches: list[list[Document]] = [[]]
        for document in documents:
            if batches[-1] and len(document.ids) * (len(batches[-1]) + 1) > tokens:
                batches.append([])
            batches[-1].append(document)
        self.rng.shuffle(batches)
        yield from batches
