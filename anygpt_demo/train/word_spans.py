"""Which word of its text each frame of a clip says, from the phones of its frames.

Letters are matched to phones by a hidden Markov model: a letter says one phone, several or none, in order. Its tables are
estimated from the clips themselves (hard EM, from a straight diagonal), so no pronunciation dictionary is needed.

runs/data/speech/<set>/words.u16: for each clip in the order of index.json, for each word of plain(text), the frame (counted
from the clip's first) at which the next word begins; the last is the number of frames. A clip without words has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anygpt_demo.synth.spoken import plain
from anygpt_demo.train.speech_data import PHONES, UNKNOWN, SpeechSet

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
PAUSE = 0  # phone class
AGAIN = 3.0  # cost (nats) of a further phone for the same letter
ROUNDS = 4
SAMPLE = 2500  # clips that the tables are estimated from
BATCH = 256


def runs_of(phones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spoken phones in order and the frame at which each begins; pauses and unknown frames are left out. phones: uint8 (frames,)."""
    starts = np.flatnonzero(np.concatenate([[True], phones[1:] != phones[:-1]]))
    kept = starts[(phones[starts] != PAUSE) & (phones[starts] != UNKNOWN)]
    return phones[kept].astype(np.int64), kept


def match(texts: Sequence[np.ndarray], sounds: Sequence[np.ndarray], emit: np.ndarray, silent: np.ndarray) -> list[np.ndarray]:
    """Cheapest monotone match of letters to phones (Viterbi), one batch.

    texts: int (letters,) each; sounds: int (phones,) each; emit: float (letters, phones) and silent: float (letters,), costs in nats.
    Returns for each clip an int array (phones,): the letter position that says each phone.
    """
    count, width, height = len(texts), max(map(len, texts)), max(map(len, sounds))
    letters, phones = np.zeros((count, width), np.int64), np.zeros((count, height), np.int64)
    for number, (text, sound) in enumerate(zip(texts, sounds, strict=True)):
        letters[number, : len(text)], phones[number, : len(sound)] = text, sound
    step = np.zeros((height + 1, width + 1, count), np.uint8)  # 0: says it; 1: silent letter; 2: says it too
    before = np.full((width + 1, count), np.inf)
    before[0] = 0.0
    for i in range(1, width + 1):
        before[i] = before[i - 1] + silent[letters[:, i - 1]]
        step[0, i] = 1
    for j in range(1, height + 1):
        row = np.full((width + 1, count), np.inf)
        for i in range(1, width + 1):
            cost = emit[letters[:, i - 1], phones[:, j - 1]]
            ways = np.stack([before[i - 1] + cost, row[i - 1] + silent[letters[:, i - 1]], before[i] + cost + AGAIN])
            step[j, i] = ways.argmin(0)
            row[i] = ways.min(0)
        before = row
        # ends differ per clip, so the whole table of steps is kept and each clip is traced from its own corner
    return [_trace(step[:, :, number], len(text), len(sound)) for number, (text, sound) in enumerate(zip(texts, sounds, strict=True))]


def _trace(step: np.ndarray, i: int, j: int) -> np.ndarray:
    said = np.zeros(j, np.int64)
    while j > 0:
        way = step[j, i]
        if way == 1:
            i -= 1
            continue
        said[j - 1] = i - 1
        j -= 1
        i -= way == 0
    return said


def estimate(texts: Sequence[np.ndarray], sounds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Cost tables (emit, silent) of match() from clips: first from a straight diagonal, then from the matches themselves."""
    counts, quiet = np.full((len(LETTERS), PHONES), 0.05), np.full(len(LETTERS), 1.0)
    for text, sound in zip(texts, sounds, strict=True):
        places = (np.arange(len(sound)) + 0.5) / len(sound) * len(text)
        for shift in (-1.0, 0.0, 1.0):
            np.add.at(counts, (text[np.clip(places + shift, 0, len(text) - 1).astype(int)], sound), 1.0 if shift == 0 else 0.5)
    quiet += 0.3 * counts.sum(1)
    for _ in range(ROUNDS):
        whole = (counts.sum(1) + quiet)[:, None]
        emit, silent = -np.log(counts / whole), -np.log(quiet / whole[:, 0])
        counts, quiet = np.full_like(counts, 0.05), np.full_like(quiet, 0.5)
        for low in range(0, len(texts), BATCH):
            some, heard = texts[low : low + BATCH], sounds[low : low + BATCH]
            for text, sound, said in zip(some, heard, match(some, heard, emit, silent), strict=True):
                np.add.at(counts, (text[said], sound), 1.0)
                np.add.at(quiet, np.delete(text, np.unique(said)), 1.0)
    return emit, silent


def spell(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Letters of plain(text) as numbers, and the word that each belongs to."""
    words = plain(text).split()
    letters = np.array([LETTERS.index(letter) for word in words for letter in word], np.int64)
    return letters, np.repeat(np.arange(len(words)), [len(word) for word in words])


def word_ends(data: SpeechSet) -> list[np.ndarray]:
    """For each clip of a set, the frame at which each word's successor begins: int64 (words,)."""
    spelled = [spell(clip.text) for clip in data.clips]
    heard = [runs_of(np.asarray(data.phones[clip.frames_start : clip.frames_start + clip.frames])) for clip in data.clips]
    sizes = [(len(text), len(sound)) for (text, _), (sound, _) in zip(spelled, heard, strict=True)]
    usable = [row for row, (letters, phones) in enumerate(sizes) if 0 < letters <= 200 and 0 < phones]
    usable.sort(key=lambda row: len(spelled[row][0]))
    sample = usable[:: max(1, len(usable) // SAMPLE)]
    found = [np.zeros(0, np.int64) for _ in data.clips]
    if not usable:
        return found
    emit, silent = estimate([spelled[row][0] for row in sample], [heard[row][0] for row in sample])
    for low in range(0, len(usable), BATCH):
        rows = usable[low : low + BATCH]
        for row, said in zip(rows, match([spelled[r][0] for r in rows], [heard[r][0] for r in rows], emit, silent), strict=True):
            words, begins = spelled[row][1], heard[row][1]
            first = np.full(int(words[-1]) + 2, data.clips[row].frames, np.int64)  # frame of each word's first phone
            np.minimum.at(first, words[said], begins)
            first = np.minimum.accumulate(first[::-1])[::-1]  # a word without a phone begins with the next
            found[row] = first[1:]
    return found


def write(folder: Path) -> None:
    """Write words.u16 of a set."""
    np.concatenate([np.zeros(0, np.int64), *word_ends(SpeechSet(folder))]).astype("<u2").tofile(folder / "words.u16")


def read(data: SpeechSet) -> list[np.ndarray] | None:
    """What write() has written, by clip; None if it has not, or for another state of the set."""
    path = data.folder / "words.u16"
    if not path.is_file():
        return None
    counts = [len(plain(clip.text).split()) for clip in data.clips]
    flat = np.fromfile(path, "<u2").astype(np.int64)
    return np.split(flat, np.cumsum(counts)[:-1]) if len(flat) == sum(counts) else None
