"""Stage music-decoder: teaches the decoder of the music codec to sound like what the codes were made of.

The encoder and the codebooks are those of the family and stay as they are. The decoder holds oscillators (oscillators.py): their gates
begin with what stored latents and notes say, without sound, so a step takes a hundredth of the time. Phase 1 learns what notes sound
like, phase 2 everything, by spectra, by a listener's ear (music_listener.py) and against an adversary (adversary.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo import checkpoints
from anygpt_demo.errors import ModelFault
from anygpt_demo.models import encodec
from anygpt_demo.train import music_listener, oscillators
from anygpt_demo.train.adversary import Adversary
from anygpt_demo.train.loop import Run, Settings, cosine, follow
from anygpt_demo.train.music_codec import LIVE, Feeder
from anygpt_demo.train.music_data import RATE_HZ, MusicSet, sets
from anygpt_demo.train.quantizer import CodebookStack
from anygpt_demo.train.spectra import MelLoss

PHASES = ("tones", "decoder")
FRAMES, CROPS = 75, 3  # of a step: an oscillator takes ten frames to start
RATE, TONES_RATE = 6e-4, 2e-3
TONES_S, TONES_SHARE = 480.0, 0.3  # CPU seconds of phase 1, and at most this share of the budget
REPEATED, GATES = 0.3, 0.5  # share of the later steps in which it is repeated, and the weight of the gates from then on
STORED, BATCH, SPAN = 1500, 12, 100  # pieces whose latents and notes are stored; crops of a step of the gates, and their frames
OPENING_S, OPENING_RATE = 120.0, 3e-3  # CPU seconds of the gates alone, at most a tenth of the budget
ADVERSARY = 0.2  # share of the budget after which the adversary takes part


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


class Notes:
    """Latents and note shares of the first pieces of a set."""

    @torch.inference_mode()
    def __init__(self, codec: Any, books: CodebookStack, data: MusicSet, tones: oscillators.Tones) -> None:
        latents, shares = [], []
        for row in range(min(STORED, len(data.pieces))):
            wave = torch.from_numpy(data.wave(row, 0, 250))[None]
            latents.append(books(codec.encoder(wave[:, None]), learn=False).total.half())
            shares.append(tones.shares(wave).half())
        self.latents, self.shares = torch.cat(latents).clone(), torch.cat(shares).clone()

    def crops(self) -> tuple[Tensor, Tensor]:
        """Latents (BATCH, D, SPAN) and shares (BATCH, N, SPAN) from anywhere."""
        rows, start = torch.randint(0, len(self.latents), (BATCH,)), int(torch.randint(0, self.shares.shape[-1] - SPAN, ()))
        span = slice(start, start + SPAN)
        return self.latents[rows, :, span].float(), self.shares[rows, :, span].float()


class Trainer:
    """One run of the stage: the codec, the optimizer of its decoder, its phase."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        torch.set_flush_denormal(True)
        self.settings = settings
        self.data, self.tests = sets(settings)
        self.run = Run("music-decoder", settings)
        self.listener = music_listener.load(settings.runs)
        self.part = checkpoints.Family.open(settings.family).component("music_codec")
        self.codec = encodec.build(encodec.SMALL)
        checkpoints.load_strict(self.codec, encodec.with_training_buffers(self.part.state()), self.part.role)
        self.books = CodebookStack([layer.codebook for layer in self.codec.quantizer.layers], live=(LIVE,))
        self.mel = MelLoss(RATE_HZ, ((512, 32), (1024, 64), (2048, 96), (4096, 128)))
        self.pitch, self.peaks = PitchLoss(), PeakLoss()
        state = self.run.resume()
        self.feeder = Feeder(self.data, settings.seed + len(self.run.rows))
        self.phase = "tones" if state is None else str(state["phase"])
        if state is not None:
            self.codec.decoder.load_state_dict(state["decoder"])
        elif not oscillators.tuned(self.codec):
            oscillators.tune(self.codec)
        self.codec.requires_grad_(False)
        self.codec.decoder.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.codec.decoder.parameters(), RATE, betas=(0.8, 0.99), weight_decay=1e-4)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        oscillators.hold(self.codec)
        self.tones = oscillators.Tones(self.codec, FRAMES)
        self.adversary = Adversary(int(self.codec.config.hidden_size))
        if state is not None and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])
            self.adversary.optimizer.load_state_dict(state["pursuit"])
        self.notes = Notes(self.codec, self.books, self.data, self.tones)
        self.told = 1.0  # loss of the adversary: 1 is where it knows nothing
        self.opened = state is not None and "adversary" in state
        self.end = min(TONES_SHARE, TONES_S / settings.budget_s)  # of phase 1, as a share of the budget
        if self.phase == "tones":
            self.end = min(0.9, self.end + self.run.progress)  # what was stored until now took time, too

    def state(self) -> dict[str, Any]:
        """What resume needs."""
        own = {"decoder": self.codec.decoder.state_dict(), "optimizer": self.optimizer.state_dict(), "phase": self.phase}
        return own | {"adversary": self.adversary.state_dict(), "pursuit": self.adversary.optimizer.state_dict()}

    def open_gates(self) -> None:
        """The gates alone, with an optimizer of their own."""
        parameters = [*self.codec.decoder.layers[:2].parameters()]
        optimizer = torch.optim.AdamW(parameters, OPENING_RATE, betas=(0.8, 0.99), weight_decay=1e-4)
        begun, budget, steps = self.run.used_s, min(OPENING_S, 0.1 * self.settings.budget_s), 0
        while self.run.going and self.run.used_s - begun < budget:
            for group in optimizer.param_groups:
                group["lr"] = OPENING_RATE * cosine((self.run.used_s - begun) / budget)
            loss = oscillators.gates_loss(self.codec, *self.notes.crops())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            steps += 1
            if steps % 100 == 1:
                self.run.log(gates=float(loss.detach()))
        self.opened = True

    def rate(self) -> float:
        """Learning rate: constant while the notes are learnt, then one cosine."""
        return TONES_RATE if self.phase == "tones" else RATE * cosine(max(0.02, (self.run.progress - self.end) / (1 - self.end)))

    def losses(self, wav: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, already weighted. wav: (B, 1, n).

        No sample-wise one for the whole: phases cannot be known from codes, and fear of a wrong phase makes the bass quiet.
        """
        with torch.no_grad():
            total = self.books(self.codec.encoder(wav), learn=False).total
        true, gates = wav[:, 0], oscillators.gates_loss(self.codec, *self.notes.crops())
        if self.phase == "tones":
            return {"gates": gates, "tones": self.tones.missed(self.codec, true)}
        made = self.codec.decoder(total)[:, 0, : wav.shape[-1]]
        terms = {"mel": self.mel(made, true), "pitch": 1.5 * self.pitch(made, true), "peaks": self.peaks(made, true)}
        terms["gates"] = GATES * gates
        if float(torch.rand(1)) < REPEATED:
            terms["tones"] = GATES * self.tones.missed(self.codec, true)
        if self.listener is not None:
            terms |= self.listener.heard(made, true)
        if self.run.progress > ADVERSARY:
            self.told = float(self.adversary.learn(made, true, total))
            terms |= self.adversary.judge(made, true, total)
        return terms

    def step(self) -> dict[str, float]:
        """One update. Returns the terms."""
        if not self.opened:
            self.open_gates()
        if self.phase == "tones" and self.run.progress > self.end:
            self.phase = "decoder"
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        terms = self.losses(self.feeder.crops(CROPS, FRAMES)[0])
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.codec.decoder.parameters(), 1.0)
        self.optimizer.step()
        return {"phase": PHASES.index(self.phase), "adversary": self.told, **{key: float(value.detach()) for key, value in terms.items()}}

    def export(self) -> None:
        """Write the role music_codec of the family."""
        state = encodec.without_training_buffers(self.codec.state_dict())
        checkpoints.export(self.settings.family, "music_codec", self.part.config, state)

    @torch.inference_mode()
    def measure(self, count: int = 16) -> None:
        """Log on test clips of 5 s: log-mel distance, chroma correlation, swap test. Stop if all codes sound the same."""
        wav = torch.from_numpy(np.stack([self.tests.wave(number) for number in range(min(count, len(self.tests.pieces)))]))[:, None]
        total = torch.cat([self.books(self.codec.encoder(part), learn=False).total for part in wav.split(4)])
        out = torch.cat([self.codec.decoder(part) for part in total.split(4)])[:, 0, : wav.shape[-1]]
        swap = float((out - out.roll(1, 0)).std() / (2**0.5 * out.std() + 1e-9))
        distance = float(F.l1_loss(self.mel.scales[2](out), self.mel.scales[2](wav[:, 0])))
        self.run.log(mel=distance, chroma=chroma_correlation(self.pitch, out, wav[:, 0]), swap=swap)
        if swap < 0.25 and self.run.used_s > 2 * TONES_S:
            cause = f"Its output hardly depends on its input (swap test {swap:.2f})."
            raise ModelFault("The decoder of the music codec has died.", cause, "Lower the learning rate or change the seed.")


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


def train(settings: Settings) -> None:
    """Train, resume or finish the decoder within the budget and export it."""
    trainer = Trainer(settings)
    follow(trainer, every=10, measures=20)
    if trainer.phase == "decoder":
        trainer.measure(32)
        trainer.export()
    trainer.run.plot()
