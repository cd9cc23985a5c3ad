"""Stage music-codec: trains encoder and codebooks of a small EncodecModel: codes keep tempo, drums, instruments and notes.

Phases:
  1. the whole encoder on what the score says of each frame (spectral losses alone let it die: the mean spectrum is a strong local optimum);
  2. its late layers alone, on what the early ones make of a crop of each piece (kept on disk): a quarter of the time and three times the
     batch. Instruments are heard in minutes this way; end to end they took hours;
  3. codebooks by k-means on a buffer of latents, then late layers and codebooks together.
transformers' class has no training path for its quantizer; CodebookStack works on its buffers from outside. The decoder comes after it
(music_decoder.py): codes are training data of other models, so from the end of this stage on they stay as they are.

A language model reads and writes the codes, so each level has its own business, and says little that is not music:
  1. LIVE codes for what changes: what begins, and what sounds;
  2. what stands still: who plays. It sees PART dimensions of the latent that level 1 does not see;
  3. what changes with the chords: harmony, bass and key. It sees PART others;
  4. what is left.
Between onsets the latent is asked to hold still. At inference this is a plain EncodecModel: codes that lie in a subspace are
nearest to a latent if they are nearest to its part in that subspace.

Options: from=DIR begins at phase 2 with the exported encoder and codebooks of a family; keep=1 or 2: so many levels go on meaning what
they meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo import checkpoints
from anygpt_demo.models import encodec
from anygpt_demo.synth import music
from anygpt_demo.train.loop import Run, Settings, cosine, follow
from anygpt_demo.train.music_data import FAMILIES, HOP, RATE_HZ, TEMPOS, MusicSet, pitch_class, sets, unpack
from anygpt_demo.train.oscillators import NOTES, NoteShares
from anygpt_demo.train.quantizer import CodebookStack, lsuv, spanned
from anygpt_demo.train.spectra import LogMel

PHASES = ("whole", "late", "quantized")
WHOLE = 0.5  # share of the budget for phase 1
LATE_S = 150.0  # CPU seconds of phase 2
EARLY = 9  # layers of the encoder that only phase 1 trains: up to 2 kHz
FRAMES = 75  # of a training crop
CROPS, LATE_CROPS = 4, 12  # per step
RATE, LATE_RATE = 6e-4, 1e-3
STORED = 150  # frames of each piece that late layers learn from
TILT = 0.35  # most of the first-order filter that crops are played through
HEARD_S = 2.5  # of a person's music that the small language model is given: 500 ids, what fits beside a chat
WIDTH = int(encodec.SMALL["hidden_size"])
LIVE = 128  # codes of level 1 in use
KEPT, PART = 48, 24  # dimensions of the latent that level 1 needs where it is kept, and that are level 2's, and level 3's
SIZES = (2.5, 1.8)  # deviation of the latent in those of levels 2 and 3; elsewhere it is 1
STILL = (1.0, 0.4)  # weights of its changes there
HOLD = 0.3  # weight of the changes of latents where nothing begins
SETTLING = 20  # frames in which the encoder has not yet heard who plays
BITS = 5
BANDS = 64
HEADS = {
    "mel": BANDS, "bits": BITS, "chords": 12, "lead": 13, "bass": 13,
    "family": len(FAMILIES), "tempo": len(TEMPOS), "genre": len(music.GENRES), "drums": 1,
}  # fmt: skip
WEIGHTS = {"mel": 2.0, "bits": 0.9, "chords": 0.8, "lead": 0.4, "bass": 0.25, "family": 0.4, "tempo": 0.25, "genre": 0.15, "drums": 0.4}
NOTES_WEIGHT = 20.0
INSTRUMENTS, MODES = tuple(music.PROGRAMS), tuple(music.MODES)
FACTS = {"instrument": len(INSTRUMENTS), "genre": len(music.GENRES), "key": 12 * len(MODES), "tempo": len(TEMPOS), "family": len(FAMILIES)}
FACT_WEIGHTS = {"instrument": 0.5, "genre": 0.2, "key": 0.1, "tempo": 0.1, "family": 0.6}  # of what level 2 alone should tell
HARMONY = {"chords": 12, "bass": 13, "key": 12 * len(MODES)}
HARMONY_WEIGHTS = {"chords": 2.0, "bass": 0.4, "key": 0.5}  # of what level 3 alone should tell


@dataclass(frozen=True)
class Score:
    """What is played in crops."""

    bits: Tensor  # float32 (B, T, BITS), 0 or 1: onset, melody onset, kick, snare, cymbals
    chords: Tensor  # float32 (B, T, 12), 0 or 1: pitch classes of the accompaniment
    lead: Tensor  # int64 (B, T): pitch class of the melody, 12 none
    bass: Tensor  # int64 (B, T): the same of the bass
    clip: dict[str, Tensor]  # FACTS int64 (B,); drums float32 (B,)


@dataclass(frozen=True)
class Batch:
    """Crops, what is heard in them and what their score says."""

    features: Tensor  # float32 (B, C, 40 T): what the early layers make of them
    before: Tensor  # float32 (B, D, T): the latent when the features were stored
    mel: Tensor  # float32 (B, T, BANDS): log-mel of each frame, about unit size
    shares: Tensor  # float32 (B, NOTES, T): how loud each note sounds
    score: Score


class Feeder:
    """Draws training crops at random levels and through random filters."""

    def __init__(self, data: MusicSet, seed: int) -> None:
        self.data, self.rng = data, np.random.default_rng(seed)

    def crops(self, size: int, frames: int = FRAMES) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """`size` random crops (B, 1, frames * HOP), the pieces that they are of, and the frames at which they begin."""
        rows = self.rng.integers(len(self.data.pieces), size=size)
        return *self.played(rows, frames), rows

    def played(self, rows: np.ndarray, frames: int) -> tuple[Tensor, np.ndarray]:
        """A crop of each of these pieces, and the frames at which they begin."""
        starts = self.rng.integers(0, 251 - frames, size=len(rows))
        gains = self.rng.uniform(0.4, 1.3, size=(len(rows), 1)).astype(np.float32)
        tilts = self.rng.uniform(-TILT, TILT, size=(len(rows), 1)).astype(np.float32)
        wav = np.stack([self.data.wave(int(row), int(start), frames) for row, start in zip(rows, starts, strict=True)]) * gains
        return torch.from_numpy((wav + tilts * np.roll(wav, 1, -1)).astype(np.float32))[:, None], starts


def score_of(data: MusicSet, rows: np.ndarray, starts: np.ndarray, frames: int) -> Score:
    """What is played in crops."""
    spans = starts[:, None] + np.arange(frames)
    arrays = (data.labels.bits, data.labels.chords, data.labels.lead, data.labels.bass)
    bits, chords, lead, bass = (torch.from_numpy(array[rows[:, None], spans].astype(np.int64)) for array in arrays)
    pieces = [data.pieces[row] for row in rows]
    clip = {name: torch.tensor([facts(piece)[name] for piece in pieces]) for name in FACTS}
    clip["drums"] = torch.tensor([float(piece.drums) for piece in pieces])
    return Score(unpack(bits, BITS), unpack(chords, 12), pitch_class(lead), pitch_class(bass), clip)


def facts(piece: music.Piece) -> dict[str, int]:
    """The classes of FACTS that a piece belongs to."""
    return {
        "instrument": INSTRUMENTS.index(piece.lead),
        "genre": music.GENRES.index(piece.genre),
        "key": music.KEYS.index(piece.key) * len(MODES) + MODES.index(piece.mode),
        "tempo": TEMPOS.index(piece.tempo),
        "family": FAMILIES.index(piece.family),
    }


class Student(nn.Module):
    """The codec with what only training needs: heads that read the score from frames, who plays from level 2, and notes."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = encodec.build(encodec.SMALL)
        self.on_total = nn.Linear(WIDTH, sum(HEADS.values()))
        self.on_first = nn.Linear(WIDTH, sum(HEADS.values()))
        self.on_slow = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, sum(FACTS.values())))
        self.on_harmony = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, sum(HARMONY.values())))
        self.on_notes = nn.Conv1d(WIDTH, NOTES, 7, padding=3)
        self.heard_notes = NoteShares()
        self.frame_mel = LogMel(RATE_HZ, 4 * HOP, BANDS)  # hop 640: one column per codec frame

    def heads(self, on_first: bool, frames: Tensor) -> dict[str, Tensor]:
        """frames: (B, D, T). Returns {name: (B, T, size)}."""
        head = self.on_first if on_first else self.on_total
        return dict(zip(HEADS, head(frames.transpose(1, 2)).split(list(HEADS.values()), -1), strict=True))

    def told(self, second: Tensor) -> dict[str, Tensor]:
        """What level 2 says of the piece. second: (B, D, T). Returns {fact: (B, T, classes)}."""
        return dict(zip(FACTS, self.on_slow(second.transpose(1, 2)).split(list(FACTS.values()), -1), strict=True))

    def harmony(self, third: Tensor) -> dict[str, Tensor]:
        """What level 3 says of each frame. third: (B, D, T). Returns {name: (B, T, size)}."""
        return dict(zip(HARMONY, self.on_harmony(third.transpose(1, 2)).split(list(HARMONY.values()), -1), strict=True))

    def early(self, wav: Tensor) -> Tensor:
        """What the early layers make of waves (B, 1, T * HOP): (B, C, 40 T)."""
        return _through(self.codec.encoder.layers[:EARLY], wav)

    def late(self, features: Tensor) -> Tensor:
        """Latents (B, D, T) of features (B, C, 40 T)."""
        return _through(self.codec.encoder.layers[EARLY:], features)

    @torch.no_grad()
    def targets(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """Of waves (B, 1, T * HOP): log-mel of each frame, about unit size, (B, T, BANDS), and how loud each note sounds, (B, NOTES, T)."""
        mel = self.frame_mel(wav[:, 0])[..., : wav.shape[-1] // HOP].transpose(1, 2)
        return (mel.clamp(min=-7.0) + 4.5) / 2.0, self.heard_notes.shares(wav[:, 0])


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class Store:
    """A crop of each piece on disk as the early layers hear it, with what is to be learnt from it. Arrays of STORED frames a piece."""

    NAMES = ("features", "before", "mel", "shares", "starts")  # as in Batch; shares of 255; the frame at which each crop begins

    def __init__(self, folder: Path, data: MusicSet) -> None:
        self.folder, self.data = folder, data

    @property
    def whole(self) -> bool:
        """Whether everything is there; what is written last is."""
        return (self.folder / "starts.npy").is_file()

    @torch.inference_mode()
    def fill(self, student: Student, feeder: Feeder, size: int = 8) -> None:
        """Hear every piece once, at one level and through one filter each: 1 CPU second for 10 pieces, .75 MB each."""
        self.folder.mkdir(parents=True, exist_ok=True)
        count = len(self.data.pieces)
        shapes = {"features": (64, 40 * STORED), "before": (WIDTH, STORED), "mel": (STORED, BANDS), "shares": (NOTES, STORED)}
        kinds = {name: np.uint8 if name == "shares" else np.float16 for name in shapes}
        arrays = {
            name: np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", kinds[name], (count, *shape))
            for name, shape in shapes.items()
        }
        starts = np.zeros(count, np.int64)
        for first in range(0, count, size):
            rows = np.arange(first, min(count, first + size))
            wav, starts[rows] = feeder.played(rows, STORED)
            features = student.early(wav)
            mel, shares = student.targets(wav)
            found = {"features": features, "before": student.late(features), "mel": mel, "shares": (255 * shares).round()}
            for name, values in found.items():
                arrays[name][rows] = values.numpy().astype(kinds[name])
        np.save(self.folder / "starts.npy", starts)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Random parts of FRAMES frames of random crops."""
        kept = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.NAMES}
        rows, at = rng.integers(len(kept["starts"]), size=size), rng.integers(0, STORED - FRAMES + 1, size=size)

        def part(name: str, axis: int, step: int = 1) -> Tensor:
            found = [kept[name][row].take(range(step * first, step * (first + FRAMES)), axis) for row, first in zip(rows, at, strict=True)]
            return torch.from_numpy(np.stack(found).astype(np.float32))

        score = score_of(self.data, rows, kept["starts"][rows] + at, FRAMES)
        return Batch(part("features", 1, 40), part("before", 1), part("mel", 0), part("shares", 1) / 255, score)


def score_loss(student: Student, frames: Tensor, batch: Batch, on_first: bool = False) -> Tensor:
    """How badly linear heads read the score from frames (B, D, T)."""
    out, score = student.heads(on_first, frames), batch.score
    terms = {
        "mel": F.l1_loss(out["mel"], batch.mel),
        "bits": F.binary_cross_entropy_with_logits(out["bits"], score.bits, pos_weight=torch.full((BITS,), 4.0)),
        "chords": F.binary_cross_entropy_with_logits(out["chords"], score.chords),
        "lead": F.cross_entropy(out["lead"].flatten(0, 1), score.lead.flatten()),
        "bass": F.cross_entropy(out["bass"].flatten(0, 1), score.bass.flatten()),
        "drums": F.binary_cross_entropy_with_logits(out["drums"][..., 0], score.clip["drums"][:, None].expand(out["drums"].shape[:2])),
    }
    for name in ("family", "tempo", "genre"):
        terms[name] = F.cross_entropy(out[name].flatten(0, 1), score.clip[name].repeat_interleave(out[name].shape[1]))
    return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()


def facts_loss(student: Student, second: Tensor, score: Score) -> Tensor:
    """How badly level 2 alone tells who plays what; little counts before it can know. second: (B, D, T)."""
    told = student.told(second)
    return torch.stack([FACT_WEIGHTS[name] * _settled(scores, score.clip[name]) for name, scores in told.items()]).sum()


def harmony_loss(student: Student, third: Tensor, score: Score) -> Tensor:
    """How badly level 3 alone tells chords, bass and key. third: (B, D, T)."""
    told = student.harmony(third)
    terms = {
        "chords": F.binary_cross_entropy_with_logits(told["chords"], score.chords),
        "bass": F.cross_entropy(told["bass"].flatten(0, 1), score.bass.flatten()),
        "key": _settled(told["key"], score.clip["key"]),
    }
    return torch.stack([HARMONY_WEIGHTS[name] * term for name, term in terms.items()]).sum()


def _settled(scores: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of one answer for all frames, of which the first count little. scores: (B, T, classes); answers: int64 (B,)."""
    counts = torch.where(torch.arange(scores.shape[1]) < SETTLING, 0.2, 1.0)
    missed = F.cross_entropy(scores.transpose(1, 2), answers[:, None].expand(scores.shape[:2]), reduction="none")
    return (missed * counts).mean()


def hold_loss(latent: Tensor, bits: Tensor) -> Tensor:
    """Mean squared change of the latents between frames in which nothing begins. latent: (B, D, T); bits: (B, T, BITS)."""
    still = bits.sum(-1) == 0
    still = still[:, 1:] & still[:, :-1]
    moves = (latent[..., 1:] - latent[..., :-1]).square().mean(1)
    return (moves * still).sum() / still.sum().clamp(min=1)


def spread_loss(values: Tensor, size: float) -> Tensor:
    """How far each dimension is from mean 0 and deviation `size`. values: (B, D, T)."""
    return values.mean((0, 2)).square().mean() + (values.std((0, 2)) - size).square().mean()


class Trainer:
    """One run of the stage: the student, its optimizer, its phase."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        torch.set_flush_denormal(True)
        self.settings = settings
        self.data, self.tests = sets(settings)
        self.run = Run("music-codec", settings)
        self.student = Student()
        self.codec = self.student.codec
        state = self.run.resume()
        self.feeder = Feeder(self.data, settings.seed + len(self.run.rows))
        self.store = Store(self.run.folder / "heard", self.data)
        self.initialise()
        self.keep = int(settings.options.get("keep", "0"))  # levels
        books = [layer.codebook for layer in self.codec.quantizer.layers]
        axes = spanned(books[0].embed[:LIVE]) if self.keep else torch.eye(WIDTH)
        self.first_axes, *self.parts = (
            axes[:KEPT],
            axes[KEPT : KEPT + PART],
            axes[KEPT + PART : KEPT + 2 * PART],
        )  # the parts: levels 2 and 3
        self.rest = torch.cat([axes[:KEPT], axes[KEPT + 2 * PART :]])
        self.views = [axes.T @ axes for axes in (self.rest, *self.parts)]
        self.books = CodebookStack(books, expiry=0.1 * LATE_CROPS * FRAMES / 2048, live=(LIVE,), fixed=self.keep, views=self.views)
        self.phase, self.began_s = "late" if "from" in settings.options else "whole", 0.0  # began_s: of phase 2, seconds of the budget
        self.optimizer = self.new_optimizer()
        if state is not None:
            self.phase, self.began_s = str(state["phase"]), float(state["began_s"])
            self.student.load_state_dict(state["student"])
            self.optimizer = self.new_optimizer()
            self.optimizer.load_state_dict(state["optimizer"])
        elif self.phase == "late":
            self.start_late()

    def initialise(self) -> None:
        """Scale the untrained weights so that a signal passes, or load trained ones."""
        if "from" in self.settings.options:
            part = checkpoints.Family.open(Path(self.settings.options["from"])).component("music_codec")
            checkpoints.load_strict(self.codec, encodec.with_training_buffers(part.state()), part.role)
            return
        kinds = (nn.Conv1d, nn.ConvTranspose1d)
        latent = lsuv(self.codec.encoder, self.feeder.crops(6)[0], kinds)
        lsuv(self.codec.decoder, latent, kinds, last=0.1)

    def new_optimizer(self) -> torch.optim.AdamW:
        """AdamW over what the phase trains."""
        layers: nn.Module = self.codec.encoder if self.phase == "whole" else self.codec.encoder.layers[EARLY:]
        parts = [layers, *(part for name, part in self.student.named_children() if name.startswith("on_"))]
        self.trained = [item for part in parts for item in part.parameters()]
        return torch.optim.AdamW(self.trained, RATE, betas=(0.9, 0.98), weight_decay=0.02)

    def start_late(self) -> None:
        """Enter phase 2: store what the early layers hear."""
        if not self.store.whole:
            self.store.fill(self.student, self.feeder)
        self.phase, self.began_s = "late", self.run.used_s
        self.optimizer = self.new_optimizer()

    def state(self) -> dict[str, Any]:
        """What resume needs."""
        state = {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**state, "phase": self.phase, "began_s": self.began_s}

    def rate(self) -> float:
        """Learning rate: one cosine for phase 1, one for the rest."""
        used, budget = self.run.used_s, self.settings.budget_s
        if self.phase == "whole":
            return RATE * cosine(used / budget / WHOLE, floor=0.1)
        return LATE_RATE * cosine((used - self.began_s) / max(1.0, budget - self.began_s), floor=0.03)

    def batch(self) -> Batch:
        """Crops for a step of this phase."""
        if self.phase != "whole":
            return self.store.batch(self.feeder.rng, LATE_CROPS)
        wav, starts, rows = self.feeder.crops(CROPS)
        features, targets = self.student.early(wav), self.student.targets(wav)
        return Batch(features, features.new_zeros(0), *targets, score_of(self.data, rows, starts, FRAMES))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, already weighted."""
        latent = self.student.late(batch.features)
        parts = [torch.einsum("kd,bdt->bkt", axes, latent) for axes in self.parts]
        moves = [weight * (part[..., 1:] - part[..., :-1]).square().mean() for weight, part in zip(STILL, parts, strict=True)]
        spread = [spread_loss(part, size) for part, size in zip(parts, SIZES, strict=True)]
        terms = {"hold": HOLD * hold_loss(latent, batch.score.bits), "still": torch.stack(moves).sum()}
        if self.keep:
            terms["kept"] = 0.05 * torch.einsum("kd,bdt->bkt", self.first_axes, latent - batch.before).square().sum(1).mean()
        else:
            spread.append(spread_loss(torch.einsum("kd,bdt->bkt", self.rest, latent), 1.0))
        terms["spread"] = 0.2 * torch.stack(spread).sum()
        total, second, third = latent, *self.seen(latent)
        if self.phase == "quantized":
            quantized = self.books(latent)
            total, second, third = quantized.total, quantized.parts[1], quantized.parts[2]
            terms["commit"] = len(quantized.parts) * quantized.commitment
            if not self.keep:
                terms["first"] = 0.7 * score_loss(self.student, quantized.first, batch, on_first=True)
        terms["score"] = score_loss(self.student, total, batch)
        terms["facts"] = facts_loss(self.student, second, batch.score)
        terms["harmony"] = harmony_loss(self.student, third, batch.score)
        terms["notes"] = NOTES_WEIGHT * F.binary_cross_entropy_with_logits(self.student.on_notes(total), batch.shares)
        return terms

    def seen(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """What levels 2 and 3 see of a latent (B, D, T), the same shape each."""
        second, third = (torch.einsum("dc,bct->bdt", view, latent) for view in self.views[1:])
        return second, third

    def step(self) -> dict[str, float]:
        """One update, in the phase that the clock asks for. Returns the terms."""
        self.advance()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        terms = self.losses(self.batch())
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return {"phase": PHASES.index(self.phase), **{key: float(value.detach()) for key, value in terms.items()}}

    def advance(self) -> None:
        """Enter the phase that the clock asks for."""
        if self.phase == "whole" and self.run.progress > WHOLE:
            self.start_late()
        elif self.phase == "late" and self.run.used_s - self.began_s > min(LATE_S, 0.2 * (self.settings.budget_s - self.began_s)):
            self.start_codebooks()
            self.phase = "quantized"

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """K-means on a buffer of latents; the head of level 1 starts from that of the latent."""
        latents = [self.student.late(self.batch().features).transpose(1, 2).reshape(-1, WIDTH) for _ in range(40)]
        self.books.start(torch.cat(latents), LATE_CROPS * FRAMES)
        self.student.on_first.load_state_dict(self.student.on_total.state_dict())

    def export(self) -> None:
        """Write the role music_codec of the family; its decoder is what it was at the start."""
        config = {**encodec.SMALL, "heard_s": HEARD_S}
        checkpoints.export(self.settings.family, "music_codec", config, encodec.without_training_buffers(self.codec.state_dict()))

    @torch.inference_mode()
    def measure(self, count: int = 48) -> None:
        """Log what the codes of the first 2.5 s of test clips tell, how often they change, and how much of the notes is missed."""
        figures: dict[str, list[float]] = {}
        for row in range(min(count, len(self.tests.pieces))):
            for name, value in self.of_test(row, 125).items():
                figures.setdefault(name, []).append(value)
        self.run.log(**{name: float(np.mean(values)) for name, values in figures.items()})

    def of_test(self, row: int, frames: int) -> dict[str, float]:
        """Figures of the beginning of one test clip."""
        wav = torch.from_numpy(self.tests.wave(row, 0, frames))[None, None]
        (mel, shares), score = self.student.targets(wav), score_of(self.tests, np.array([row]), np.array([0]), frames)
        latent = self.codec.encoder(wav)
        total, second, third = latent, *self.seen(latent)
        figures = {}
        if self.phase == "quantized":
            quantized = self.books(latent, learn=False)
            total, second, third = quantized.total, quantized.parts[1], quantized.parts[2]
            for level, codes in enumerate(quantized.codes[:, 0]):
                figures[f"moves{level + 1}"] = float((codes[1:] != codes[:-1]).float().mean())
        harmony = self.student.harmony(third)
        logits = {**self.student.told(second), "key": harmony["key"]}
        told = {name: int(scores[0, 2 * SETTLING :].log_softmax(-1).mean(0).argmax()) for name, scores in logits.items()}
        figures |= {name: float(answer == score.clip[name][0]) for name, answer in told.items()}
        figures["chords"] = float(((harmony["chords"] > 0) == (score.chords > 0)).float().mean())
        figures["mode"] = float(told["key"] % len(MODES) == score.clip["key"][0] % len(MODES))
        out, playing = self.student.heads(False, total), score.lead < 12
        if bool(playing.any()):
            figures["lead"] = float((out["lead"].argmax(-1) == score.lead)[playing].float().mean())
        figures["drums"] = float((out["drums"].mean() > 0) == bool(score.clip["drums"][0]))
        figures["mel"] = float(F.l1_loss(out["mel"], mel))
        missed = F.binary_cross_entropy_with_logits(self.student.on_notes(total), shares) - F.binary_cross_entropy(shares, shares)
        return figures | {"notes_missed": float(missed)}


def train(settings: Settings) -> None:
    """Train, resume or finish the encoder and the codebooks within the budget and export them."""
    trainer = Trainer(settings)
    follow(trainer, every=50, measures=10)
    if trainer.phase == "quantized":
        trainer.measure(300)
        trainer.export()
    trainer.run.plot()
