"""What the training stream must never contain, domain by domain. Fixed lists: nothing here is drawn at random.

Training generators exclude these items; evaluations ask for them. Each domain has its own section.
"""

from __future__ import annotations

import zlib

# --- pictures: object x place pairs and one style x place combination that are never drawn together in training ---
PICTURE_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("dog", "beach"), ("cat", "snowy field"), ("horse", "desert"), ("elephant", "lake"), ("penguin", "city street"),
        ("lion", "forest"), ("bear", "ocean"), ("owl", "garden"), ("whale", "lake"), ("butterfly", "mountains"),
        ("dinosaur", "meadow"), ("apple", "beach"), ("banana", "forest"), ("pineapple", "snowy field"), ("hamburger", "mountains"),
        ("sunflower", "desert"), ("palm tree", "lake"), ("car", "beach"), ("bus", "meadow"), ("bicycle", "forest"),
        ("rocket", "city street"), ("sailboat", "mountains"), ("house", "ocean"), ("castle", "desert"), ("tent", "snowy field"),
        ("guitar", "lake"), ("drum", "ocean"), ("piano", "garden"), ("robot", "meadow"), ("snowman", "beach"),
    }
)  # fmt: skip
PICTURE_STYLES: frozenset[tuple[str, str]] = frozenset({("watercolor", "mountains")})


def picture_allowed(noun: str, place: str) -> bool:
    """Whether training may show this noun at this place."""
    return (noun, place) not in PICTURE_PAIRS


def style_allowed(style: str, place: str) -> bool:
    """Whether training may show this place in this style."""
    return (style, place) not in PICTURE_STYLES


def bucket(key: str) -> int:
    """A stable number in [0, 100) for a string; it depends on no seed and no machine."""
    return zlib.crc32(key.encode("utf-8")) % 100


# Speech: the synthetic voice that no training set contains; sentences and human speakers by hash.
HELD_OUT_VOICE = "awb"


def held_out_sentence(text: str, percent: int = 3) -> bool:
    """Whether a spoken sentence is kept for tests. Case, punctuation and spacing do not matter."""
    words = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower()).split()
    return bucket("sentence " + " ".join(words)) < percent


def held_out_speaker(name: str, percent: int = 10) -> bool:
    """Whether a human speaker (or, where speakers are not named, a recording) is kept for tests."""
    return bucket("speaker " + name) < percent


# Music: (instrument of the melody, genre) pairs that no training piece combines; each instrument and each genre is trained elsewhere.
MUSIC_PAIRS: tuple[tuple[str, str], ...] = (
    ("piano", "reggae"),
    ("harpsichord", "electronic"),
    ("electric piano", "waltz"),
    ("celesta", "rock"),
    ("music box", "latin"),
    ("vibraphone", "march"),
    ("marimba", "jazz"),
    ("church organ", "hip hop"),
    ("accordion", "ambient"),
    ("harmonica", "classical"),
    ("acoustic guitar", "electronic"),
    ("electric guitar", "lullaby"),
    ("distorted guitar", "folk"),
    ("violin", "hip hop"),
    ("cello", "pop"),
    ("string ensemble", "reggae"),
    ("trumpet", "ambient"),
    ("french horn", "jazz"),
    ("saxophone", "classical"),
    ("clarinet", "rock"),
    ("oboe", "latin"),
    ("flute", "march"),
    ("pan flute", "pop"),
    ("sitar", "waltz"),
    ("banjo", "lullaby"),
    ("saw synth", "folk"),
)

# Chats: ways of asking that training never uses.
PHRASINGS: frozenset[str] = frozenset(
    {
        "Let me see {scene}.", "What is shown here?", "Let me hear {music}.", "How does this music sound?", "Give this scene a song.",
        "What scene does this music show?", "Make it {time}.", "Put it {place}.", "Now make it {tempo}.", "Please read aloud: {quote}",
        "What was said here?", "Say something about {}.", "Make a little rhyme about {topic}.", "Today I feel {feeling}.", "Do you hear any drums?",
    }
)  # fmt: skip
