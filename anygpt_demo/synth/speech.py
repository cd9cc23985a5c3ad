"""Speech with known phones: synthetic voices (flite, festival) and prepared human recordings.

A set on disk is one folder:

    audio.i16    all clips end to end, int16, 16 kHz mono, each clip a whole number of frames (320 samples)
    phones.u8    one phone class per 20 ms frame (50 Hz), index into PHONES; 255 where it is unknown
    index.json   [{"start", "samples", "frames_start", "frames", "text", "voice", "source", "split"}], start in samples

The 41 phone classes are the 40 of ARPAbet as the CMU voices use it (schwa included), with silence as class 0. The synthesizers print the end
time of every phone, so frame labels come free; they are the semantic teacher of the first codebook.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo.checkpoints import write_json
from anygpt_demo.errors import MissingProgram
from anygpt_demo.synth.holdout import HELD_OUT_VOICE, held_out_sentence, held_out_speaker

RATE_HZ = 16_000
FRAME = 320  # samples per 50 Hz frame
UNKNOWN = 255
PHONES: tuple[str, ...] = tuple(
    "pau aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh".split()
) + ("ax",)
# spellings of other lexicons and reduced sounds -> one of PHONES
ALIASES = {
    "axr": "er", "h#": "pau", "brth": "pau", "pcl": "pau", "sil": "pau", "ssil": "pau", "dx": "t", "el": "l", "em": "m",
    "en": "n", "nx": "n", "hv": "hh", "ix": "ih", "ux": "uw", "h": "hh", "i": "ih",
}  # fmt: skip
PHONE_ID = {phone: number for number, phone in enumerate(PHONES)}

# voice -> semitones that stay intelligible to a recogniser trained on people (formants kept)
SHIFTS: dict[str, tuple[int, ...]] = {"slt": (-4, -3, -2, -1), "rms": (1, 2, 3, 4, 5), "kal16": (1, 2, 3, 4, 5), "ked": (1, 2, 3)}
VOICES: dict[str, float] = {"slt": 0.36, "rms": 0.32, "kal16": 0.24, "ked": 0.08}  # share of clips; awb is held out
QUICK_VOICES: dict[str, float] = {"slt": 0.34, "rms": 0.34, "kal16": 0.31, "ked": 0.01}  # the same for large sets
PITCH_HZ = {"slt": 173.0, "kal16": 95.0}  # mean pitch of the voices that can be told another one
OWN_VOICE, OWN_STRETCH = "rms", 1.06  # what mini says is learnt from one speaker who never hurries
SHIFTED = 0.4  # share of clips that go through a pitch shift
MAX_S = 6.0


@dataclass(frozen=True)
class Spoken:
    """One synthesised sentence. samples: float32 (frames * 320,) in [-1, 1] at 16 kHz; phones: uint8 (frames,)."""

    samples: np.ndarray
    phones: np.ndarray


def phone_id(name: str) -> int:
    """Class of a phone name; anything unknown counts as silence."""
    return PHONE_ID.get(ALIASES.get(name, name), 0)


def frame_labels(ends: list[tuple[str, float]], frames: int) -> np.ndarray:
    """Phones with their end times in seconds -> uint8 (frames,) at 50 Hz. What follows the last phone is silence."""
    labels = np.zeros(frames, np.uint8)
    start = 0
    for name, end_s in ends:
        stop = min(frames, round(end_s * 50))
        labels[start:stop] = phone_id(name)
        start = max(start, stop)
    return labels


def phone_sequence(text: str) -> list[int]:
    """The phones of a text by the synthesizer's lexicon, silences left out."""
    names = _call(["flite", "-voice", "kal16", "-ps", "-t", text, "-o", "none"]).split()
    return [number for number in map(phone_id, names) if number]


def _call(command: list[str]) -> str:
    """Run a program and return what it printed. Raises MissingProgram if it is not installed."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    except FileNotFoundError as error:
        raise MissingProgram(
            f"The program {command[0]} is not installed.",
            "Synthetic speech is made with it.",
            "Install flite, festival, festvox-kdlpc16k and rubberband-cli.",
        ) from error


def _read(path: Path) -> np.ndarray:
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE_HZ:
        raise ValueError(f"{path.name}: {rate} Hz instead of {RATE_HZ}")
    return samples


def _flite(text: str, voice: str, stretch: float, pitch_hz: float, folder: Path) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """flite: samples and (phone, end time in s). stretch > 1 is slower; pitch_hz 0 is the voice's own."""
    out = folder / "flite.wav"
    manner = ["--setf", f"duration_stretch={stretch:.2f}"]
    if pitch_hz:
        manner += ["--setf", f"int_f0_target_mean={pitch_hz:.0f}"]
    printed = _call(["flite", "-voice", voice, *manner, "-psdur", "-t", text, "-o", str(out)])
    ends = [(name, float(end)) for name, end in (item.rsplit(":", 1) for item in printed.split())]
    return _read(out), ends


def _festival(text: str, stretch: float, folder: Path) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """festival's ked voice: samples and (phone, end time in s)."""
    quoted = text.replace("\\", " ").replace('"', " ")
    wave, labels, script = folder / "ked.wav", folder / "ked.lab", folder / "ked.scm"
    script.write_text(
        f"(voice_ked_diphone)\n(Parameter.set 'Duration_Stretch {stretch:.2f})\n"
        f'(set! u (Utterance Text "{quoted}"))\n(utt.synth u)\n'
        f'(utt.save.wave u "{wave}" \'riff)\n(utt.save.segs u "{labels}")\n'
    )
    _call(["festival", "-b", str(script)])
    rows = [line.split() for line in labels.read_text().splitlines() if not line.startswith("#")]
    return _read(wave), [(row[2], float(row[0])) for row in rows if len(row) == 3]


def _shift(samples: np.ndarray, semitones: int, folder: Path) -> np.ndarray:
    """Pitch shift with formants kept; the length stays, so the labels stay."""
    import soundfile

    soundfile.write(folder / "in.wav", samples, RATE_HZ)
    _call(["rubberband", "-q", "-F", "-p", str(semitones), str(folder / "in.wav"), str(folder / "out.wav")])
    shifted = _read(folder / "out.wav")[: len(samples)]
    return np.pad(shifted, (0, len(samples) - len(shifted)))


def draw_voice(rng: np.random.Generator, shares: Mapping[str, float] = VOICES) -> str:
    """A training voice: a name of `shares`, for some clips with a shift in semitones: "rms", "slt-2", "kal16+3"."""
    base = str(rng.choice(list(shares), p=list(shares.values())))
    if rng.random() < SHIFTED:
        return f"{base}{int(rng.choice(SHIFTS[base])):+d}"
    return base


def split_voice(voice: str) -> tuple[str, int]:
    """ "kal16+3" -> ("kal16", 3)."""
    for sign in "+-":
        base, found, number = voice.partition(sign)
        if found:
            return base, int(sign + number)
    return voice, 0


def synthesize(text: str, voice: str, rng: np.random.Generator, *, quick: bool = False, stretch: float | None = None) -> Spoken:
    """Speak a text. voice: as draw_voice() spells it, or "awb" (held out). rng draws level, and tempo unless stretch (> 1 slower) says it.

    quick: where the synthesizer can, it is told the pitch, instead of a shift afterwards (twice as fast).
    """
    base, semitones = split_voice(voice)
    stretch = stretch or float(rng.uniform(0.88, 1.25))
    told = quick and semitones != 0 and base in PITCH_HZ
    pitch_hz = PITCH_HZ[base] * 2 ** (semitones / 12) if told else 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples, ends = _festival(text, stretch, folder) if base == "ked" else _flite(text, base, stretch, pitch_hz, folder)
        if semitones and not told:
            samples = _shift(samples, semitones, folder)
    samples = samples * (rng.uniform(0.4, 0.85) / max(1e-4, float(np.abs(samples).max())))
    frames = -(-len(samples) // FRAME)
    samples = np.pad(samples, (0, frames * FRAME - len(samples)))
    return Spoken(samples.astype(np.float32), frame_labels(ends, frames))


class SetWriter:
    """Writes the three files of a set, clip after clip; the index is renewed every few hundred clips and at the end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.frames = 0
        self._audio = (folder / "audio.i16").open("wb")
        self._phones = (folder / "phones.u8").open("wb")

    def __enter__(self) -> SetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._audio.close()
        self._phones.close()

    def flush(self) -> None:
        """Make everything so far visible to readers."""
        self._audio.flush()
        self._phones.flush()
        write_json(self.folder / "index.json", self.rows)

    def add(self, samples: np.ndarray, phones: np.ndarray | None, *, text: str, voice: str, source: str, split: str) -> None:
        """samples: float32 (n,); padded to whole frames. phones: uint8 (ceil(n / 320),) or None when unknown."""
        frames = -(-len(samples) // FRAME)
        wave = np.pad(samples, (0, frames * FRAME - len(samples)))
        labels = np.full(frames, UNKNOWN, np.uint8) if phones is None else phones.astype(np.uint8)
        if len(labels) != frames:
            raise ValueError(f"{len(labels)} labels for {frames} frames")
        self._audio.write((np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes())
        self._phones.write(labels.tobytes())
        place = {"start": self.frames * FRAME, "samples": frames * FRAME, "frames_start": self.frames, "frames": frames}
        self.rows.append({**place, "text": text, "voice": voice, "source": source, "split": split})
        self.frames += frames
        if len(self.rows) % 500 == 0:
            self.flush()


def make(
    set_dir: Path,
    sentences: Iterable[str],
    seed: int,
    hours: float,
    *,
    voices: tuple[str, ...] = (),
    split: str | None = None,
    workers: int = 1,
    quick: bool = False,
    stretch: float | None = None,
) -> float:
    """Speak sentences until `hours` of audio are written or none is left; returns the hours made.

    voices: clips take these in turn; empty: drawn by draw_voice(). split: None lets the held-out list decide
    (unseen sentences are "test"). quick: QUICK_VOICES and told pitches; stretch: see synthesize(). Clip i is a function
    of (seed, i, sentence) alone. Clips above MAX_S are dropped.
    """

    def speak(job: tuple[int, str]) -> tuple[str, str, Spoken]:
        number, text = job
        rng = np.random.default_rng([seed, number])
        voice = voices[number % len(voices)] if voices else draw_voice(rng, QUICK_VOICES if quick else VOICES)
        return text, voice, synthesize(text, voice, rng, quick=quick, stretch=stretch)

    jobs = enumerate(sentences)
    goal = int(hours * 3600 * RATE_HZ / FRAME)
    with SetWriter(set_dir) as writer, ThreadPoolExecutor(workers) as pool:
        while writer.frames < goal and (batch := list(islice(jobs, 64))):
            for text, voice, spoken in pool.map(speak, batch):
                if len(spoken.samples) > MAX_S * RATE_HZ or writer.frames >= goal:
                    continue
                kind = split or ("test" if held_out_sentence(text) else "train")
                writer.add(spoken.samples, spoken.phones, text=text, voice=voice, source=split_voice(voice)[0], split=kind)
        return writer.frames * FRAME / RATE_HZ / 3600


def make_human(set_dir: Path, data: Path, *, longest_s: float = 16.0) -> float:
    """Decode the human recordings under `data`; phones are unknown until the phone teacher labels them. Returns hours.

    split: Kathleen by prompt, LibriSpeech by speaker, Picovoice (no speaker ids) by clip.
    """
    with SetWriter(set_dir) as writer:
        for text, voice, source, split, samples in _human_clips(data):
            peak = float(np.abs(samples).max(initial=0.0))
            if peak < 1e-3 or not 0.4 * RATE_HZ <= len(samples):
                continue
            cut = samples[: int(longest_s * RATE_HZ)] * min(4.0, 0.7 / peak)
            writer.add(cut, None, text=text if len(cut) == len(samples) else "", voice=voice, source=source, split=split)
        return writer.frames * FRAME / RATE_HZ / 3600


def _human_clips(data: Path) -> Iterator[tuple[str, str, str, str, np.ndarray]]:
    """(text, voice, source, split, samples at 16 kHz) of every recording, in the order of the archives."""
    import soundfile

    for source in ("kathleen", "librispeech_clean251", "pico_intent", "pico_wake"):
        path = data / f"{source}.tar"
        if not path.is_file():
            continue
        with tarfile.open(path) as archive:
            texts = _transcripts(archive) if source == "kathleen" else {}
            for member in sorted(archive.getmembers(), key=lambda item: item.name):
                stream = archive.extractfile(member) if member.name.endswith(".ogg") else None
                if stream is None:
                    continue
                samples, rate = soundfile.read(io.BytesIO(stream.read()), dtype="float32")
                if rate != RATE_HZ or samples.ndim != 1:
                    raise ValueError(f"{member.name}: expected 16 kHz mono")
                name = Path(member.name).stem
                text = texts.get(name, "")
                voice = {"kathleen": "kathleen", "librispeech_clean251": "libri-" + name.split("-")[0]}.get(source, "pico")
                held = held_out_sentence(text, percent=5) if source == "kathleen" else held_out_speaker(voice if voice != "pico" else name)
                yield text, voice, source, "test" if held else "train", samples


def _transcripts(archive: tarfile.TarFile) -> dict[str, str]:
    """name -> sentence, from the archive's tab separated transcripts."""
    stream = archive.extractfile("kathleen/transcripts.tsv")
    if stream is None:
        return {}
    rows = (line.split("\t") for line in stream.read().decode("utf-8").splitlines())
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def replace_phones(folder: Path, labels: np.ndarray) -> None:
    """Put new frame labels beside a set, whole or not at all. labels: uint8, as long as the old file."""
    draft = folder / "phones.u8.part"
    draft.write_bytes(labels.astype(np.uint8).tobytes())
    os.replace(draft, folder / "phones.u8")


def make_set(name: str, folder: Path, data: Path | None, seed: int = 0, workers: int = 1) -> float:
    """Build one of the project's sets by name under `folder`; returns hours.

    synth0: general sentences (codec, phone teacher). synth1: the dialogue world, requests and replies. own: replies and others in one
    voice, what mini says. synth_test: unseen sentences of the dialogue world, 140 in training voices and 60 in the held-out voice,
    whatever the seed. human: recordings of people.
    """
    from anygpt_demo.synth import speech_text

    target = folder / name
    if name == "synth0":
        return make(target, speech_text.sentences(seed, data), seed, 3.0, workers=workers)
    if name == "human":
        if data is None or not (data / "kathleen.tar").is_file():
            logging.getLogger(__name__).warning("No human recordings: real microphones and voice cloning will work far less well.")
            return 0.0
        return make_human(target, data)
    if name == "synth1":
        spoken = (text for text in speech_text.dialogue_sentences(seed + 1) if not held_out_sentence(text))
        return make(target, spoken, seed + 1, 9.0, workers=workers, quick=True)
    if name == "own":
        spoken = (text for text in speech_text.own_sentences(seed, data) if not held_out_sentence(text))
        return make(target, spoken, seed + 3, 6.0, voices=(OWN_VOICE,), workers=workers, stretch=OWN_STRETCH)
    if name == "synth_test":
        unseen = list(islice((text for text in speech_text.dialogue_sentences(1) if held_out_sentence(text)), 200))
        return make_test(target, unseen, 2)
    raise ValueError(f"no speech set is called {name}")


def make_test(target: Path, unseen: list[str], seed: int) -> float:
    """The test set: 7 of 10 sentences in unshifted training voices, 3 of 10 in the held-out voice, as split "test"."""
    seen = tuple(VOICES)
    voices = tuple(HELD_OUT_VOICE if number % 10 in (3, 6, 9) else seen[number % len(seen)] for number in range(200))
    return make(target, unseen, seed, 1.0, voices=voices, split="test")
