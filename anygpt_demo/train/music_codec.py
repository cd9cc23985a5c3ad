"""Stage music-codec: trains a small EncodecModel so that its codes keep tempo, drums, instruments and notes.

Phases, as shares of the budget:
  1. the encoder alone on what the score says of each frame (spectral losses alone let it die: the mean spectrum is a strong local optimum);
  2. encoder and decoder without quantizer;
  3. codebooks by k-means on a buffer of latents, then everything together; the score heads read all levels and level 1 alone;
  4. encoder and codebooks frozen (their codes are training data of other models from here on), the decoder alone goes on.
transformers' class has no training path for its quantizer; CodebookStack works on its buffers from outside.

Stage music-decoder teaches the decoder once more, from the family's weights and frozen codes: with oscillators in it (oscillators.py),
first what their notes sound like, then everything by a listener's ear (music_listener.py).

A language model reads the codes, so they should say little that is not music: level 1 uses LIVE of its codes, and between onsets
the latent is asked to hold still.

Options: from=DIR begins with the exported weights of a family instead of scaled random ones.
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
from anygpt_demo.errors import ModelFault
from anygpt_demo.models import encodec
from anygpt_demo.synth import music
from anygpt_demo.train import music_listener, oscillators
from anygpt_demo.train.loop import Run, Settings, cosine
from anygpt_demo.train.music_data import FAMILIES, HOP, RATE_HZ, TEMPOS, MusicSet, pitch_class, sets, unpack
from anygpt_demo.train.quantizer import CodebookStack, lsuv
from anygpt_demo.train.spectra import LogMel, MelLoss

PHASES = ("heads", "joint", "quantized", "tones", "decoder")
ENDS = (0.09, 0.24, 0.6, 0.6, 1.0)  # of the phases, as shares of the budget
FRAMES = 50  # per training crop: one second
CROPS = (6, 4, 4, 3, 3)  # per step and phase
DECODED = 75  # frames of a crop in phase 4: an oscillator takes ten to start
RATE = 6e-4
TONES_RATE = 2e-3
HEARD_S = 2.5  # of a person's music that the small language model is given: 500 ids, what fits beside a chat
WIDTH = int(encodec.SMALL["hidden_size"])
LIVE = 128  # codes of level 1 in use
HOLD = 0.3  # weight of the changes of latents where nothing begins
TONES_S = 480.0  # seconds in which the oscillators' sound alone is learnt
REPEATED, GATES = 0.3, 0.5  # share of the steps after it in which it is repeated, and its weight from then on
BITS = 5
BANDS = 64
HEADS = {
    "mel": BANDS, "bits": BITS, "chords": 12, "lead": 13, "bass": 13,
    "family": len(FAMILIES), "tempo": len(TEMPOS), "genre": len(music.GENRES), "drums": 1,
}  # fmt: skip
WEIGHTS = {"mel": 2.0, "bits": 0.9, "chords": 0.8, "lead": 0.4, "bass": 0.25, "family": 0.4, "tempo": 0.25, "genre": 0.15, "drums": 0.4}


@dataclass(frozen=True)
class Batch:
    """Crops of FRAMES frames and what their score says."""

    wav: Tensor  # float32 (B, 1, FRAMES * HOP)
    bits: Tensor  # float32 (B, FRAMES, BITS), 0 or 1: onset, melody onset, kick, snare, cymbals
    chords: Tensor  # float32 (B, FRAMES, 12), 0 or 1: pitch classes of the accompaniment
    lead: Tensor  # int64 (B, FRAMES): pitch class of the melody, 12 none
    bass: Tensor  # int64 (B, FRAMES): the same of the bass
    clip: dict[str, Tensor]  # family, tempo, genre int64 (B,); drums float32 (B,)


class Feeder:
    """Draws training crops at random levels."""

    def __init__(self, data: MusicSet, seed: int) -> None:
        self.data, self.rng = data, np.random.default_rng(seed)

    def batch(self, size: int, frames: int = FRAMES) -> Batch:
        """`size` random crops."""
        rows = self.rng.integers(len(self.data.pieces), size=size)
        starts = self.rng.integers(0, 250 - frames + 1, size=size)
        gains = self.rng.uniform(0.4, 1.3, size=(size, 1)).astype(np.float32)
        wav = np.stack([self.data.wave(int(row), int(start), frames) for row, start in zip(rows, starts, strict=True)]) * gains
        return self.labelled(torch.from_numpy(wav.astype(np.float32))[:, None], rows, starts)

    def labelled(self, wav: Tensor, rows: np.ndarray, starts: np.ndarray) -> Batch:
        """Crops with their labels. wav: (B, 1, T * HOP)."""
        spans = starts[:, None] + np.arange(wav.shape[-1] // HOP)
        labels = self.data.labels
        arrays = (labels.bits, labels.chords, labels.lead, labels.bass)
        bits, chords, lead, bass = (torch.from_numpy(array[rows[:, None], spans].astype(np.int64)) for array in arrays)
        pieces = [self.data.pieces[row] for row in rows]
        clip = {
            "family": torch.tensor([FAMILIES.index(piece.family) for piece in pieces]),
            "tempo": torch.tensor([TEMPOS.index(piece.tempo) for piece in pieces]),
            "genre": torch.tensor([music.GENRES.index(piece.genre) for piece in pieces]),
            "drums": torch.tensor([float(piece.drums) for piece in pieces]),
        }
        return Batch(wav, unpack(bits, BITS), unpack(chords, 12), pitch_class(lead), pitch_class(bass), clip)


class PitchLoss(nn.Module):
    """Mean absolute difference of log magnitudes below 3 kHz at 7.8 Hz resolution: mel bands alone do not hear notes."""

    window: Tensor

    def __init__(self, size: int = 4096, top_hz: float = 3000.0) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size))
        self.bins = slice(4, int(top_hz * size / RATE_HZ))

    def spectrum(self, wav: Tensor) -> Tensor:
        """wav: (B, n). Returns log magnitudes (B, bins, 1 + n / 1024)."""
        size = len(self.window)
        part = torch.stft(wav, size, size // 4, window=self.window, return_complex=True)[:, self.bins]
        return (part.real.square() + part.imag.square() + 1e-4).log() / 2

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """wav, target: (B, n). Returns a scalar."""
        return F.l1_loss(self.spectrum(wav), self.spectrum(target))


class PeakLoss(nn.Module):
    """Relative distance of magnitudes (spectral convergence, Arik et al. 2018, arXiv 1808.06719): loud partials count most."""

    def __init__(self, sizes: tuple[int, ...] = (1024, 4096)) -> None:
        super().__init__()
        self.sizes = sizes
        for size in sizes:
            self.register_buffer(f"window{size}", torch.hann_window(size))

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """wav, target: (B, n). Returns a scalar."""
        terms = []
        for size in self.sizes:
            window = self.get_buffer(f"window{size}")
            made, true = (torch.stft(x, size, size // 4, window=window, return_complex=True).abs() for x in (wav, target))
            terms.append(((made - true).square().sum((1, 2)) / (true.square().sum((1, 2)) + 1e-3)).clamp(min=1e-6).sqrt().mean())
        return torch.stack(terms).sum()


class Student(nn.Module):
    """The codec with what only training needs: linear heads that read the score from frames."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = encodec.build(encodec.SMALL)
        self.on_total = nn.Linear(WIDTH, sum(HEADS.values()))
        self.on_first = nn.Linear(WIDTH, sum(HEADS.values()))
        self.frame_mel = LogMel(RATE_HZ, 4 * HOP, BANDS)  # hop 640: one column per codec frame

    def heads(self, on_first: bool, frames: Tensor) -> dict[str, Tensor]:
        """frames: (B, D, T). Returns {name: (B, T, size)}."""
        head = self.on_first if on_first else self.on_total
        return dict(zip(HEADS, head(frames.transpose(1, 2)).split(list(HEADS.values()), -1), strict=True))

    def mel_target(self, wav: Tensor) -> Tensor:
        """wav: (B, 1, n). Returns the log-mel of each frame, about unit size, (B, T, BANDS)."""
        mel = self.frame_mel(wav[:, 0])[..., : wav.shape[-1] // HOP].transpose(1, 2)
        return (mel.clamp(min=-7.0) + 4.5) / 2.0


def score_loss(student: Student, frames: Tensor, batch: Batch, on_first: bool = False) -> Tensor:
    """How badly linear heads read the score from frames (B, D, T)."""
    out = student.heads(on_first, frames)
    terms = {
        "mel": F.l1_loss(out["mel"], student.mel_target(batch.wav)),
        "bits": F.binary_cross_entropy_with_logits(out["bits"], batch.bits, pos_weight=torch.full((BITS,), 4.0)),
        "chords": F.binary_cross_entropy_with_logits(out["chords"], batch.chords),
        "lead": F.cross_entropy(out["lead"].flatten(0, 1), batch.lead.flatten()),
        "bass": F.cross_entropy(out["bass"].flatten(0, 1), batch.bass.flatten()),
        "drums": F.binary_cross_entropy_with_logits(out["drums"][..., 0], batch.clip["drums"][:, None].expand(out["drums"].shape[:2])),
    }
    for name in ("family", "tempo", "genre"):
        terms[name] = F.cross_entropy(out[name].flatten(0, 1), batch.clip[name].repeat_interleave(out[name].shape[1]))
    return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()


def hold_loss(latent: Tensor, bits: Tensor) -> Tensor:
    """Mean squared change of the latents between frames in which nothing begins. latent: (B, D, T); bits: (B, T, BITS)."""
    still = bits.sum(-1) == 0
    still = still[:, 1:] & still[:, :-1]
    moves = (latent[..., 1:] - latent[..., :-1]).square().mean(1)
    return (moves * still).sum() / still.sum().clamp(min=1)


class Trainer:
    """One run of the stage: the student, its optimizer, its phase."""

    def __init__(self, settings: Settings, stage: str = "music-codec") -> None:
        """stage: music-decoder to go on with the decoder of the family."""
        torch.manual_seed(settings.seed)
        torch.set_flush_denormal(True)
        self.settings = settings
        self.data, self.tests = sets(settings)
        self.ready = stage == "music-decoder"
        self.ends = (0.0, 0.0, 0.0, min(0.3, TONES_S / settings.budget_s), 1.0) if self.ready else ENDS
        self.run = Run(stage, settings)
        self.listener = music_listener.load(settings.runs)
        self.student = Student()
        self.codec = self.student.codec
        books = [layer.codebook for layer in self.codec.quantizer.layers]
        self.books = CodebookStack(books, expiry=0.1 * CROPS[2] * FRAMES / 2048, live=(LIVE,))
        self.mel = MelLoss(RATE_HZ, ((512, 32), (1024, 64), (2048, 96), (4096, 128)))
        self.pitch, self.peaks = PitchLoss(), PeakLoss()
        state = self.run.resume()
        self.feeder = Feeder(self.data, settings.seed + len(self.run.rows))
        self.phase = str(state["phase"]) if state is not None else "tones" if self.ready else "heads"
        if state is None:
            self.initialise()
        else:
            self.student.load_state_dict(state["student"])
        self.optimizer = self.new_optimizer()
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.tones: oscillators.Tones | None = None
        if self.ready:
            oscillators.hold(self.codec)
            self.tones = oscillators.Tones(self.codec, DECODED)

    def new_optimizer(self) -> torch.optim.AdamW:
        """AdamW over what the phase trains."""
        alone = PHASES.index(self.phase) >= PHASES.index("tones")
        part: nn.Module = self.codec.decoder if alone else self.student
        self.student.requires_grad_(not alone)
        part.requires_grad_(True)
        return torch.optim.AdamW(part.parameters(), RATE, betas=(0.8, 0.99), weight_decay=1e-4)

    def initialise(self) -> None:
        """Scale the untrained weights so that a signal passes, or load trained ones."""
        if self.ready or "from" in self.settings.options:
            part = checkpoints.Family.open(Path(self.settings.options.get("from", self.settings.family))).component("music_codec")
            checkpoints.load_strict(self.codec, encodec.with_training_buffers(part.state()), part.role)
            if self.ready and not oscillators.tuned(self.codec):
                oscillators.tune(self.codec)
            return
        wav, kinds = self.feeder.batch(6).wav, (nn.Conv1d, nn.ConvTranspose1d)
        latent = lsuv(self.codec.encoder, wav, kinds)
        lsuv(self.codec.decoder, latent, kinds, last=float(wav.std()))

    def state(self) -> dict[str, Any]:
        """What resume needs."""
        return {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(), "phase": self.phase}

    def rate(self) -> float:
        """Learning rate: one cosine until the freeze, a second one for the decoder alone."""
        if self.phase == "tones":
            return TONES_RATE
        if self.phase == "decoder":
            return RATE * cosine(max(0.02, (self.run.progress - self.ends[3]) / (1 - self.ends[3])))
        return RATE * cosine(self.run.progress / self.ends[2], floor=0.1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, already weighted."""
        if self.phase in ("tones", "decoder"):
            with torch.no_grad():
                total = self.books(self.codec.encoder(batch.wav), learn=False).total
            sounding = self.phase == "tones" or float(torch.rand(1)) < REPEATED
            gates = self.tones.losses(self.codec, total, batch.wav[:, 0], sounding) if self.tones else {}
            if self.phase == "tones":
                return gates
            made = self.codec.decoder(total)[..., : batch.wav.shape[-1]]
            heard = {} if self.listener is None else self.listener.heard(made[:, 0], batch.wav[:, 0])
            return self.wave_losses(made, batch.wav) | heard | {name: GATES * term for name, term in gates.items()}
        latent = self.codec.encoder(batch.wav)
        terms = {"hold": HOLD * hold_loss(latent, batch.bits)}
        terms["spread"] = 0.2 * (latent.mean((0, 2)).square().mean() + (latent.std((0, 2)) - 1).square().mean())
        if self.phase == "quantized":
            quantized = self.books(latent)
            terms["score"] = score_loss(self.student, quantized.total, batch)
            terms["first"] = 0.7 * score_loss(self.student, quantized.first, batch, on_first=True)
            terms["commit"] = quantized.commitment
            return terms | self.wave_losses(self.codec.decoder(quantized.total), batch.wav)
        terms["score"] = score_loss(self.student, latent, batch)
        return terms if self.phase == "heads" else terms | self.wave_losses(self.codec.decoder(latent), batch.wav)

    def wave_losses(self, wav: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Spectral distances. No sample-wise one: phases cannot be known from codes, and fear of a wrong phase makes the bass quiet."""
        made, true = wav[:, 0, : target.shape[-1]], target[:, 0]
        return {"mel": self.mel(made, true), "pitch": 1.5 * self.pitch(made, true), "peaks": self.peaks(made, true)}

    def step(self) -> dict[str, float]:
        """One update. Returns the terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        frames = DECODED if self.phase in ("tones", "decoder") else FRAMES
        terms = self.losses(self.feeder.batch(CROPS[PHASES.index(self.phase)], frames))
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        return {key: float(value.detach()) for key, value in terms.items()}

    def advance(self) -> None:
        """Enter the phase that the clock asks for. A larger budget never leads back: frozen codes stay frozen."""
        due = next(name for name, end in zip(PHASES, self.ends, strict=True) if self.run.progress <= end)
        if PHASES.index(due) <= PHASES.index(self.phase):
            return
        if self.ready:
            self.run.save(self.state())
            self.phase = due
            return
        if PHASES.index(self.phase) < 2 <= PHASES.index(due):
            self.start_codebooks()
        self.phase = due
        if due == "decoder":
            self.optimizer = self.new_optimizer()
            self.freeze()

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """K-means on a buffer of 30k latent frames; the head of level 1 starts from that of the latent."""
        latents = [self.codec.encoder(self.feeder.batch(10).wav).transpose(1, 2).reshape(-1, WIDTH) for _ in range(60)]
        self.books.start(torch.cat(latents), CROPS[2] * FRAMES)
        self.student.on_first.load_state_dict(self.student.on_total.state_dict())

    @torch.no_grad()
    def freeze(self) -> None:
        """Round the encoder side to what is exported (bfloat16), export, and say that its codes are final."""
        for tensor in [*self.codec.encoder.parameters(), *(book.embed for book in self.books.books)]:
            tensor.copy_(tensor.bfloat16().float())
        self.run.save(self.state())
        self.export()
        marker(self.settings.family).touch()

    def export(self) -> None:
        """Write the role music_codec of the family."""
        config = {**encodec.SMALL, "heard_s": HEARD_S}
        checkpoints.export(self.settings.family, "music_codec", config, encodec.without_training_buffers(self.codec.state_dict()))

    @torch.inference_mode()
    def evaluate(self, count: int = 16) -> dict[str, float]:
        """On test clips of 5 s: log-mel distance, chroma correlation, swap test, codes in use, frame accuracies of the heads."""
        wav = torch.from_numpy(np.stack([self.tests.wave(number) for number in range(count)]))[:, None]
        frames = torch.cat([self.codec.encoder(part) for part in wav.split(4)])
        made = self.books(frames, learn=False) if PHASES.index(self.phase) >= 2 else None
        frames = frames if made is None else made.total
        figures = self.read(frames, count) | {"std": float((frames - frames.mean((0, 2), keepdim=True)).std())}
        if made is not None:
            figures |= {f"used{level + 1}": float(len(codes.unique())) for level, codes in enumerate(made.codes)}
        if self.phase != "heads":
            out = torch.cat([self.codec.decoder(part) for part in frames.split(4)])[..., : wav.shape[-1]]
            figures["mel"] = float(F.l1_loss(self.mel.scales[2](out[:, 0]), self.mel.scales[2](wav[:, 0])))
            figures["chroma"] = chroma_correlation(self.pitch, out[:, 0], wav[:, 0])
            figures["swap"] = float((out - out.roll(1, 0)).std() / (2**0.5 * out.std() + 1e-9))
        return figures

    def read(self, frames: Tensor, count: int) -> dict[str, float]:
        """Frame accuracies of the heads on the first `count` test clips. frames: (count, D, T)."""
        out = self.student.heads(False, frames)
        lead = pitch_class(torch.from_numpy(self.tests.labels.lead[:count].astype(np.int64)))
        pieces = self.tests.pieces[:count]
        family = torch.tensor([FAMILIES.index(piece.family) for piece in pieces])
        drums = torch.tensor([piece.drums for piece in pieces])
        return {
            "lead": float((out["lead"].argmax(-1) == lead)[lead < 12].float().mean()),
            "family": float((out["family"].mean(1).argmax(-1) == family).float().mean()),
            "drums": float(((out["drums"].mean((1, 2)) > 0) == drums).float().mean()),
        }

    def measure(self, count: int = 16) -> None:
        """Log evaluate(); stop if the decoder says the same whatever it hears."""
        figures = self.evaluate(count)
        self.run.log(**figures)
        if figures.get("swap", 1.0) < 0.25 and self.run.progress > self.ends[0] + 0.08:
            cause = f"Its output hardly depends on its input (swap test {figures['swap']:.2f})."
            raise ModelFault("The music codec has died.", cause, "Lower the learning rate or change the seed.")


def chroma_correlation(pitch: PitchLoss, made: Tensor, true: Tensor) -> float:
    """Mean correlation of pitch-class profiles over time. made, true: (B, n)."""
    hz = torch.arange(pitch.bins.start, pitch.bins.stop) * RATE_HZ / len(pitch.window)
    keep = hz > 100  # below, a bin is wider than a semitone
    classes = (12 * (hz[keep] / 440).log2()).round().long() % 12
    rows = []
    for wav in (made, true):
        profile = torch.zeros(len(wav), 12, pitch.spectrum(wav).shape[-1]).index_add_(1, classes, pitch.spectrum(wav)[:, keep].exp())
        profile = profile / profile.sum(1, keepdim=True)
        rows.append((profile - profile.mean((1, 2), keepdim=True)).flatten(1))
    return float(F.cosine_similarity(*rows).mean())


def marker(family: Path) -> Path:
    """The file whose presence says that the codes of the music codec are final."""
    return family / "music_codec.FROZEN"


def train_decoder(settings: Settings) -> None:
    """Stage music-decoder."""
    train(settings, "music-decoder")


def train(settings: Settings, stage: str = "music-codec") -> None:
    """Train, resume or finish the music codec within the budget and export it."""
    trainer = Trainer(settings, stage)
    run = trainer.run
    steps, measured = 0, run.used_s
    while run.going:
        trainer.advance()
        terms = trainer.step()
        steps += 1
        if steps % 50 == 0:
            run.log(phase=PHASES.index(trainer.phase), **terms)
        if run.used_s - measured > settings.budget_s / 20:
            measured = run.used_s
            trainer.measure()
        if run.due():
            run.save(trainer.state())
    run.save(trainer.state())
    if trainer.phase in ("quantized", "decoder"):
        trainer.measure(32)
        trainer.export()
    run.plot()
