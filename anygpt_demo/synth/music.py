"""Short pieces of music: facts by seed -> a score -> a waveform, and sentences that say what it is.

`sample_piece` draws balanced facts, `compose` turns them into notes, `render` plays the notes with FluidSynth in this
process (about .03 CPU seconds for 5 s), `describe` and `request` put the facts into words and `facts` reads them back.
"""

from __future__ import annotations

import ctypes
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anygpt_demo.errors import MissingProgram
from anygpt_demo.synth.holdout import MUSIC_PAIRS

if TYPE_CHECKING:
    from anygpt_demo.media import Audio

# General MIDI programs (from 0) by family, four each, so that a uniform family gives a uniform instrument.
FAMILIES: dict[str, dict[str, int]] = {
    "keyboard": {"piano": 0, "electric piano": 4, "harpsichord": 6, "clavinet": 7},
    "bells": {"celesta": 8, "music box": 10, "vibraphone": 11, "marimba": 12},
    "organ": {"church organ": 19, "jazz organ": 16, "accordion": 21, "harmonica": 22},
    "guitar": {"acoustic guitar": 24, "jazz guitar": 26, "electric guitar": 27, "distorted guitar": 30},
    "strings": {"violin": 40, "cello": 42, "string ensemble": 48, "pizzicato violin": 45},
    "brass": {"trumpet": 56, "trombone": 57, "french horn": 60, "brass section": 61},
    "reed": {"saxophone": 65, "oboe": 68, "clarinet": 71, "bassoon": 70},
    "flute": {"flute": 73, "pan flute": 75, "recorder": 74, "whistle": 78},
    "plucked": {"sitar": 104, "banjo": 105, "harp": 46, "koto": 107},
    "synthesizer": {"square synth": 80, "saw synth": 81, "synth voice": 54, "synth brass": 62},
}
PROGRAMS: dict[str, int] = {name: program for family in FAMILIES.values() for name, program in family.items()}
FAMILY_OF: dict[str, str] = {name: family for family, members in FAMILIES.items() for name in members}
LOW_LEADS = frozenset({"cello", "trombone", "french horn", "bassoon", "distorted guitar"})  # played an octave lower

TEMPOS: dict[str, tuple[int, int]] = {"slow": (58, 76), "medium": (86, 106), "fast": (126, 160)}  # beats per minute, gaps between
MODES: dict[str, tuple[int, ...]] = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS: dict[str, tuple[tuple[int, ...], ...]] = {  # scale degrees of the chords, the tonic first
    "major": ((0, 3, 4, 0), (0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4)),
    "minor": ((0, 3, 4, 0), (0, 5, 3, 4), (0, 6, 5, 4), (0, 3, 0, 4)),
}
KEYS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")


@dataclass(frozen=True)
class Feel:
    """How a mood is played."""

    mode: str
    velocity: int  # of the melody, MIDI 1..127
    gate: float  # sounding share of a note's length
    lift: int  # semitones, a multiple of 12
    steps: tuple[float, ...]  # note lengths in beats


MOODS: dict[str, Feel] = {
    "happy": Feel("major", 104, 0.8, 0, (0.5, 0.5, 1)),
    "playful": Feel("major", 98, 0.4, 12, (0.5, 0.5, 0.5, 1)),
    "triumphant": Feel("major", 120, 0.95, 0, (1, 1, 0.5, 1.5)),
    "romantic": Feel("major", 88, 1.0, 0, (1, 1.5, 0.5)),
    "calm": Feel("major", 76, 1.0, 0, (1, 2, 1)),
    "energetic": Feel("major", 118, 0.6, 0, (0.5, 0.5, 0.25, 0.25)),
    "sad": Feel("minor", 80, 1.0, 0, (1, 1, 2)),
    "tense": Feel("minor", 108, 0.45, 0, (0.5, 0.25, 0.25, 0.5)),
    "mysterious": Feel("minor", 82, 0.9, -12, (1, 0.5, 1.5)),
    "nostalgic": Feel("minor", 88, 0.95, 0, (0.5, 1, 0.5, 1)),
    "dark": Feel("minor", 100, 1.0, -12, (1, 1, 0.5)),
    "angry": Feel("minor", 122, 0.7, 0, (0.5, 0.5, 0.5, 0.25, 0.25)),
}


class Hit(NamedTuple):
    """One stroke of a pattern: beats from the start of the bar, key of the drum kit, velocity."""

    beat: float
    key: int
    velocity: int


@dataclass(frozen=True)
class Style:
    """What makes a genre recognisable even without drums: who accompanies, in which rhythm, over which bass."""

    beats: int  # in a bar
    chords: int  # General MIDI program of the accompaniment
    bass: int
    strums: tuple[tuple[float, float], ...]  # (beat, length in beats); () breaks the chord into eighths
    steps: tuple[float, ...]  # beats of the bass notes
    kit: tuple[Hit, ...]


def _even(step: float, key: int, velocity: int, beats: int = 4, start: float = 0.0) -> tuple[Hit, ...]:
    return tuple(Hit(start + step * number, key, velocity) for number in range(int((beats - start - 1e-6) / step) + 1))


_FOUR = (0, 1, 2, 3)
STYLES: dict[str, Style] = {
    "classical": Style(4, 48, 43, ((0, 2), (2, 2)), _FOUR, (Hit(0, 41, 100), Hit(2, 41, 90), Hit(3.5, 45, 70), Hit(0, 49, 50))),
    "jazz": Style(
        4,
        0,
        32,
        ((0.66, 0.4), (2.66, 0.4)),
        _FOUR,
        (*_even(1, 51, 85), Hit(1.66, 51, 70), Hit(3.66, 51, 70), Hit(1, 44, 80), Hit(3, 44, 80)),
    ),
    "rock": Style(
        4,
        29,
        34,
        tuple((k / 2, 0.45) for k in range(8)),
        (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5),
        (*_even(0.5, 42, 70), Hit(0, 36, 115), Hit(2, 36, 115), Hit(1, 38, 115), Hit(3, 38, 115)),
    ),
    "pop": Style(
        4,
        4,
        33,
        tuple((k, 0.9) for k in range(4)),
        (0, 1.5, 2, 3.5),
        (*_even(0.5, 42, 65), Hit(0, 36, 105), Hit(2, 36, 105), Hit(2.5, 36, 95), Hit(1, 39, 105), Hit(3, 39, 105)),
    ),
    "ambient": Style(4, 89, 92, ((0, 4),), (0, 2), (Hit(0, 36, 80), Hit(2, 36, 65), *_even(1, 70, 70))),
    "electronic": Style(
        4,
        81,
        38,
        tuple((k + 0.5, 0.3) for k in range(4)),
        (0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.25, 3.5, 3.75),
        (*_even(1, 36, 120), *_even(1, 46, 75, 4, 0.5), Hit(1, 39, 100), Hit(3, 39, 100)),
    ),
    "folk": Style(
        4,
        25,
        32,
        ((0, 0.9), (1, 0.4), (1.5, 0.4), (2, 0.4), (2.5, 0.4), (3, 0.9)),
        (0, 2),
        (*_even(1, 54, 95), Hit(0, 36, 85), Hit(2, 36, 85)),
    ),
    "march": Style(
        4,
        58,
        58,
        tuple((k + 0.5, 0.35) for k in range(4)),
        _FOUR,
        (*_even(0.5, 38, 85), Hit(3.25, 38, 80), Hit(3.75, 38, 80), Hit(0, 35, 110), Hit(2, 35, 110), Hit(0, 49, 70)),
    ),
    "waltz": Style(3, 21, 43, ((1, 0.6), (2, 0.6)), (0,), (Hit(0, 36, 100), Hit(1, 42, 85), Hit(2, 42, 85))),
    "lullaby": Style(4, 46, 10, (), (0, 2), (Hit(0, 81, 80), Hit(2, 80, 80), *_even(1, 82, 60))),
    "hip hop": Style(
        4,
        5,
        39,
        ((0, 1.4), (2.75, 1)),
        (0, 0.75, 2.5),
        (*_even(0.25, 42, 60), Hit(0, 36, 120), Hit(0.75, 36, 105), Hit(2.5, 36, 115), Hit(1, 38, 115), Hit(3, 38, 115)),
    ),
    "reggae": Style(
        4, 16, 33, tuple((k + 0.5, 0.25) for k in range(4)), (0, 0.75, 1.5, 2.5), (*_even(0.5, 42, 65), Hit(2, 36, 115), Hit(2, 37, 110))
    ),
    "latin": Style(
        4,
        24,
        32,
        ((0, 0.4), (0.75, 0.4), (1.5, 0.4), (2.5, 0.4), (3.25, 0.4)),
        (0, 1.5, 3),
        (
            *_even(0.5, 70, 65),
            Hit(0, 75, 100),
            Hit(0.75, 75, 95),
            Hit(1.5, 75, 100),
            Hit(2.5, 75, 95),
            Hit(3, 75, 100),
            Hit(1, 63, 100),
            Hit(2, 64, 90),
            Hit(3.5, 63, 100),
        ),
    ),
}
GENRES = tuple(STYLES)


@dataclass(frozen=True)
class Piece:
    """The facts of one piece; with the seed they determine every note."""

    genre: str
    mood: str
    lead: str  # instrument of the melody
    family: str  # of the lead
    bpm: float
    tempo: str  # "slow", "medium", "fast"
    drums: bool
    key: str  # tonic, one of KEYS
    mode: str  # "major", "minor"
    seed: int
    font: str = "FluidR3_GM"
    timing: float = 0.005  # seconds, deviation of where the player begins a note


def sample_piece(rng: random.Random, heldout: bool = False) -> Piece:
    """Draw a piece: tempo class, drums, mode and family are balanced and independent of the genre.

    heldout: only instrument x genre pairs that training never sees; otherwise none of them.
    """
    while True:
        family = rng.choice(tuple(FAMILIES))
        lead = rng.choice(tuple(FAMILIES[family]))
        genre = rng.choice(GENRES)
        if heldout:
            lead, genre = rng.choice(MUSIC_PAIRS)
        if heldout or (lead, genre) not in MUSIC_PAIRS:
            break
    mode = rng.choice(tuple(MODES))
    mood = rng.choice(tuple(name for name, feel in MOODS.items() if feel.mode == mode))
    tempo = rng.choice(tuple(TEMPOS))
    return Piece(
        genre=genre, mood=mood, lead=lead, family=FAMILY_OF[lead], bpm=rng.randint(*TEMPOS[tempo]), tempo=tempo,
        drums=rng.random() < 0.5, key=rng.choice(KEYS), mode=mode, seed=rng.getrandbits(31),
        font="TimGM6mb" if rng.random() < 0.15 else "FluidR3_GM",
    )  # fmt: skip


class Note(NamedTuple):
    """A sounding note: seconds, MIDI channel (0 melody, 1 chords, 2 bass, 9 drums), MIDI pitch, velocity 1..127."""

    start: float
    end: float
    channel: int
    pitch: int
    velocity: int


class _Score:
    """Notes in beats, written down with a player's small timing errors."""

    def __init__(self, piece: Piece) -> None:
        self.rng = random.Random(piece.seed)
        self.beat, self.timing = 60.0 / piece.bpm, piece.timing
        self.scale = MODES[piece.mode]
        self.tonic = KEYS.index(piece.key)
        self.notes: list[Note] = []

    def pitch(self, degree: int, octave: int) -> int:
        """MIDI pitch of a scale degree (0 tonic, 7 the octave above)."""
        return 12 * octave + self.tonic - 12 * (self.tonic > 7) + self.scale[degree % 7] + 12 * (degree // 7)

    def add(self, beat: float, length: float, channel: int, pitch: int, velocity: float) -> None:
        start = max(0.0, beat * self.beat + self.rng.gauss(0, self.timing))
        loud = int(min(127, max(1, velocity + self.rng.gauss(0, 4))))
        self.notes.append(Note(start, start + max(0.05, length * self.beat), channel, pitch, loud))


def compose(piece: Piece, seconds: float = 5.0) -> list[Note]:
    """The notes of a piece, sorted by time; none starts after `seconds`."""
    style, feel = STYLES[piece.genre], MOODS[piece.mood]
    score = _Score(piece)
    progression = score.rng.choice(PROGRESSIONS[piece.mode])
    motif = [score.rng.choice(feel.steps) for _ in range(5)]
    octave = 5 if piece.lead in LOW_LEADS else 6
    bar = 0
    while bar * style.beats * score.beat < seconds:
        start, chord = bar * style.beats, progression[bar % 4]
        _accompany(score, style, start, chord)
        if piece.drums:
            for hit in style.kit:
                score.add(start + hit.beat, 0.2, 9, hit.key, hit.velocity)
        _melody(score, feel, motif, (start, style.beats, chord), octave)
        bar += 1
    return sorted(note for note in score.notes if note.start < seconds)


def _accompany(score: _Score, style: Style, start: int, chord: int) -> None:
    voices = [score.pitch(chord + step, 5) for step in (0, 2, 4)]
    for beat, length in style.strums:
        for voice in voices:
            score.add(start + beat, length, 1, voice, 66)
    if not style.strums:
        for number in range(style.beats * 2):
            score.add(start + number / 2, 0.6, 1, voices[(0, 1, 2, 1)[number % 4]], 74)
    for number, beat in enumerate(style.steps):
        score.add(start + beat, 0.7, 2, score.pitch(chord + (4 if number % 2 else 0), 3), 92)


def _melody(score: _Score, feel: Feel, motif: list[float], bar: tuple[int, int, int], octave: int) -> None:
    """One bar: starts on a chord tone, moves by steps, repeats the rhythm of the motif. bar: (first beat, beats, chord degree)."""
    start, beats, chord = bar
    at, number, degree = 0.0, 0, chord + score.rng.choice((0, 2, 4))
    while at < beats - 1e-6:
        length = min(motif[number % len(motif)], beats - at)
        lift = feel.lift if octave == 6 else 0
        score.add(start + at, length * feel.gate, 0, score.pitch(degree, octave) + lift, feel.velocity)
        degree = max(-2, min(8, degree + score.rng.choice((-2, -1, -1, 1, 1, 2))))
        at, number = at + length, number + 1


FONT_FOLDERS = (Path("/usr/share/sounds/sf2"), Path("/usr/share/soundfonts"))
BLOCK = 64  # FluidSynth computes so many samples at once
LEVELS = ((0, 127), (1, 58), (2, 74), (9, 80))  # (MIDI channel, volume controller): the melody is 6 dB above the rest


@cache
def _font(name: str) -> tuple[Any, int]:
    """A loaded sound font (148 MB for FluidR3), once per process: (the player that owns it, address of the font)."""
    try:
        import fluidsynth
    except ImportError as error:
        raise MissingProgram(
            "Music cannot be rendered.", "FluidSynth is not installed.", "Install fluidsynth, fluid-soundfont-gm and pyfluidsynth."
        ) from error
    path = next((folder / f"{name}.sf2" for folder in FONT_FOLDERS if (folder / f"{name}.sf2").is_file()), None)
    if path is None:
        raise MissingProgram(
            "Music cannot be rendered.", f"The sound font {name} is not installed.", "Install fluid-soundfont-gm and timgm6mb-soundfont."
        )
    library = fluidsynth._fl
    library.fluid_synth_get_sfont_by_id.restype = ctypes.c_void_p
    library.fluid_set_log_function(2, None, None)  # silences "No preset found", said each time a font leaves a player
    owner = fluidsynth.Synth(channels=16)
    number = owner.sfload(str(path))
    return owner, library.fluid_synth_get_sfont_by_id(ctypes.c_void_p(owner.synth), number)


@contextmanager
def _player(font: str, rate: int) -> Iterator[tuple[Any, int]]:
    """A fresh FluidSynth player that borrows the loaded font: (player, id of the font in it).

    Fresh, because a used one carries voices, reverb and gain ramps of the last piece into the next.
    """
    _, address = _font(font)
    import fluidsynth

    library = fluidsynth._fl
    player = fluidsynth.Synth(gain=0.5, samplerate=float(rate), channels=16, **{"synth.chorus.active": 0})
    try:
        yield player, library.fluid_synth_add_sfont(ctypes.c_void_p(player.synth), ctypes.c_void_p(address))
    finally:
        library.fluid_synth_remove_sfont(ctypes.c_void_p(player.synth), ctypes.c_void_p(address))
        player.delete()


def render(piece: Piece, seconds: float = 5.0, rate: int = 32000) -> Audio:
    """Play a piece. Returns mono float32 of exactly `seconds` at `rate` Hz, peak .7."""
    from anygpt_demo.media import Audio

    return Audio(play(compose(piece, seconds), piece, seconds, rate), rate)


def play(notes: list[Note], piece: Piece, seconds: float, rate: int) -> np.ndarray:
    """Sound of notes: float32 (round(seconds * rate),), peak .7. Equal arguments give equal samples."""
    style = STYLES[piece.genre]
    events = sorted([(note.start, 1, note) for note in notes] + [(note.end, 0, note) for note in notes])
    total, done = round(seconds * rate), 0
    sound = np.zeros((2, -(-total // BLOCK) * BLOCK), np.float32)
    with _player(piece.font, rate) as (player, font):
        for channel, program in ((0, PROGRAMS[piece.lead]), (1, style.chords), (2, style.bass)):
            player.program_select(channel, font, 0, program)
        player.program_select(9, font, 128, 0)
        for channel, volume in LEVELS:
            player.cc(channel, 7, volume)
        for time, on, note in events:
            at = min(sound.shape[1], int(time * rate) // BLOCK * BLOCK)
            _write(player, sound[:, done:at])
            done = max(done, at)
            if on:
                player.noteon(note.channel, note.pitch, note.velocity)
            else:
                player.noteoff(note.channel, note.pitch)
        _write(player, sound[:, done:])
    samples = sound.mean(0)[:total]
    return samples * np.float32(0.7 / max(1e-4, float(np.abs(samples).max())))


def _write(player: Any, sound: np.ndarray) -> None:
    """Let the player fill sound: float32 (2, n), n a multiple of BLOCK. Floats, because the 16-bit output is dithered."""
    import fluidsynth

    if sound.shape[1]:
        fill = fluidsynth._fl.fluid_synth_write_float
        left, right = (ctypes.c_void_p(row.ctypes.data) for row in sound)
        fill(ctypes.c_void_p(player.synth), ctypes.c_int(sound.shape[1]), left, 0, 1, right, 0, 1)


# Words. {np} is the whole noun phrase, the other slots are facts; long forms name every fact that a judge can hear.
LONG = (
    "{A:mood} {genre} piece with {a:lead} melody, {drums}, at {a:tempo} tempo in a {mode} key.",
    "{A:tempo}, {mood} {genre} tune in {mode}, played on the {lead} {drums}.",
    "{Genre} music in a {mode} key: {a:lead} plays a {tempo}, {mood} melody {drums}.",
    "This is {a:mood} {genre} piece in {mode}. The {lead} plays the melody at {a:tempo} tempo, {drums}.",
    "{Tempo} {genre} in {a:mode} key, {drums}, {mood} in mood, led by the {lead}.",
    "The {lead} leads {a:mood}, {tempo} {genre} piece in {mode} {drums}.",
    "{A:lead} plays {mood} {genre} music at {a:tempo} tempo in {a:mode} key {drums}.",
    "{Mood} {genre} with {a:lead}, {drums}; the tempo is {tempo} and the key is {mode}.",
    "It sounds like {a:mood} {genre} piece in a {mode} key, with {a:lead} up front, {a:tempo} beat and {kit}.",
    "You can hear {a:lead} in {a:tempo} {genre} piece {drums}. It is in {a:mode} key and the mood is {mood}.",
)
SHORT = (
    "{A:mood} {genre} tune with {a:lead}.",
    "{Tempo} {genre} {drums}, played on the {lead}.",
    "{A:tempo}, {mood} {lead} melody.",
    "{Mood} {genre} music, {tempo}, {drums}.",
    "{A:tempo} {genre} piece in {mode} with {a:lead}.",
    "{Genre} with {a:lead}, {drums}.",
)
ASK = (
    "Compose {np}.", "Please compose {np}.", "Play me {np}.", "Could you play {np}?", "I would like to hear {np}.",
    "Make {np}, please.", "Can you write {np}?", "Create {np} for me.", "Let me hear {np}.", "I am in the mood for {np}.",
    "Give me {np}.", "Please generate {np}.", "Produce {np}.", "How about {np}?",
)  # fmt: skip
ASKED_LONG = (
    "{a:tempo}, {mood} {genre} piece in {mode} for {lead} {drums}",
    "{a:mood} {genre} piece in a {mode} key with {a:lead}, {drums}, at {a:tempo} tempo",
    "{a:tempo} {genre} tune in {a:mode} key, {mood}, played on the {lead} {drums}",
    "some {mood} {genre} music in {mode}, {tempo}, with {a:lead} and {kit}",
)
ASKED_SHORT = (
    "{a:mood} {genre} tune", "{a:mood} {genre} piece with {a:lead}", "some {tempo} {genre} music {drums}", "{a:tempo} {lead} tune",
    "some {mood} music {drums}", "{a:tempo}, {mood} {genre} piece", "something {mood} on the {lead}", "{genre} music with {a:lead}",
)  # fmt: skip
ASKED_FREELY = (  # as people type: the instrument before the noun, a fact or two
    "{a:tempo} {mood} {lead} piece in a {mode} key {drums}", "{a:mood} {lead} piece in {mode} {drums}", "{a:tempo} {lead} piece in {a:mode} key",
    "{a:tempo} {mood} {lead} piece", "{a:mood} {lead} piece {drums}", "{a:mood} {lead} melody", "{a:genre} {lead} melody", "{a:lead} piece",
    "some {lead} music", "some {mood} {lead} music", "{a:lead} solo", "{a:mood} tune for {lead}", "{a:tempo} {genre} track with {a:lead}",
    "{genre} {drums}", "{genre}", "some {genre}", "some {tempo} {lead} music {drums}", "{a:mood} {genre} melody in {mode}",
)  # fmt: skip
WITH_DRUMS = ("with drums", "with a drum beat", "with drums")
NO_DRUMS = ("without drums", "with no drums", "without drums")


def _fill(template: str, piece: Piece, rng: random.Random) -> str:
    """Fill the slots of a template: {fact}, {Fact} capitalised, {a:fact} and {A:fact} with an article."""
    words = {
        "genre": piece.genre, "mood": piece.mood, "lead": piece.lead, "tempo": piece.tempo, "mode": piece.mode,
        "drums": rng.choice(WITH_DRUMS if piece.drums else NO_DRUMS), "kit": "drums" if piece.drums else "no drums",
    }  # fmt: skip

    def slot(match: re.Match[str]) -> str:
        article, name = match.group(1), match.group(2)
        word = words[name.lower()]
        if article:
            text = ("an " if word[0] in "aeiou" else "a ") + word
            return text.capitalize() if article == "A:" else text
        return word.capitalize() if name[0].isupper() else word

    return re.sub(r"\{([aA]:)?(\w+)\}", slot, template)


def describe(piece: Piece, rng: random.Random, full: bool | None = None) -> str:
    """A caption. full: True names tempo, drums, mode, mood, genre and lead; False is short; None draws (2 in 3 full)."""
    full = rng.random() < 2 / 3 if full is None else full
    return _fill(rng.choice(LONG if full else SHORT), piece, rng)


def request(piece: Piece, rng: random.Random, full: bool | None = None) -> str:
    """A person's request for the piece. full: as in describe() (None: 1 in 2 full)."""
    full = rng.random() < 1 / 2 if full is None else full
    phrase = _fill(rng.choice(ASKED_LONG if full else ASKED_SHORT), piece, rng)
    return rng.choice(ASK).replace("{np}", phrase)


def freely(piece: Piece, rng: random.Random) -> str:
    """The words for a piece in a request that is typed in passing: "a sad piano piece"."""
    return _fill(rng.choice(ASKED_FREELY), piece, rng)


def facts(text: str) -> dict[str, str]:
    """Read the facts that a caption or request names: any of genre, mood, lead, family, tempo, mode, drums ("yes" / "no")."""
    low = " " + re.sub(r"[^a-z]+", " ", text.lower()) + " "
    found: dict[str, str] = {}
    leads = sorted((name for name in PROGRAMS if f" {name} " in low), key=len)
    if leads:
        found["lead"], found["family"] = leads[-1], FAMILY_OF[leads[-1]]
        low = low.replace(leads[-1], "")  # "jazz guitar" does not say jazz
    for name, values in (("genre", GENRES), ("mood", tuple(MOODS)), ("tempo", tuple(TEMPOS)), ("mode", tuple(MODES))):
        hits = [value for value in values if f" {value} " in low]
        if hits:
            found[name] = hits[0]
    if re.search(r" (no|without( any)?) drum", low):
        found["drums"] = "no"
    elif " drum" in low:
        found["drums"] = "yes"
    return found
