"""Stage music-listener: a small network that hears notes, instruments, genre and key.

Not shipped: it tells the decoder of the music codec how it sounds, as speech_listener.py does for speech. It is not the judge: that is
another network, trained by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.synth import music
from anygpt_demo.train.loop import Averaged, Run, Settings, cosine
from anygpt_demo.train.music_data import HOP, RATE_HZ, MusicSet, pitch_class, sets, unpack
from anygpt_demo.train.spectra import LogMel
from anygpt_demo.train.speech_teacher import Block

WIDTH, DEPTH, KERNEL = 160, 5, 7
BANDS = 64
LOWEST, NOTES = 45, 60  # MIDI note of the lowest semitone band (110 Hz) and their number
WINDOW = 8192  # of the semitone bands: 3.9 Hz
FRAMES, BATCH = 100, 12  # of a training crop: 2 s
RATE = 2e-3
INSTRUMENTS, MODES = tuple(music.PROGRAMS), tuple(music.MODES)
PER_FRAME = {"lead": 13, "bass": 13, "chords": 12, "bits": 5}
PER_CLIP = {"instrument": len(INSTRUMENTS), "genre": len(music.GENRES), "key": 12 * len(MODES), "drums": 2}
HEARD = {"layers": 2.0, "frames": 0.3}  # weights of what the listener says of a decoder's sound
TOLD = {"instrument": 1.5, "genre": 0.6, "key": 0.6, "drums": 0.6}  # and of what it says of the piece: timbre is the hardest to keep


def semitone_filters() -> np.ndarray:
    """float32 (NOTES, WINDOW // 2 + 1): triangles one semitone to either side of each note, unit area."""
    hz = np.arange(WINDOW // 2 + 1) * RATE_HZ / WINDOW
    pitch = 69 + 12 * np.log2(np.maximum(hz, 1) / 440)
    rows = np.maximum(0, 1 - np.abs(pitch[None] - (LOWEST + np.arange(NOTES))[:, None]))
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


class Listener(nn.Module):
    """Waves at 32 kHz to what is played, 50 frames a second, and what the piece is."""

    window: Tensor
    notes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mel = LogMel(RATE_HZ, 4 * HOP, BANDS)
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("notes", torch.from_numpy(semitone_filters()))
        self.enter = nn.Linear(BANDS + NOTES, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, KERNEL) for _ in range(DEPTH))
        self.frame = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(PER_FRAME.values())))
        self.clip = nn.Linear(2 * WIDTH, sum(PER_CLIP.values()))

    def layers(self, wave: Tensor) -> list[Tensor]:
        """What each block makes of a wave (B, T * HOP): float (B, T, WIDTH) each."""
        frames = wave.shape[-1] // HOP
        spectrum = torch.stft(wave, WINDOW, HOP, window=self.window, return_complex=True)[..., :frames]
        power = spectrum.real.square() + spectrum.imag.square()
        heard = torch.cat([self.mel(wave)[..., :frames].clamp(min=-7.0) + 4.5, (self.notes @ power + 1e-3).log() / 2], 1) / 2
        x = self.enter(heard.transpose(1, 2))
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def answers(self, layers: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Logits by name: of each frame (B, T, classes), and of the clip (B, classes)."""
        last = layers[-1]
        clip = self.clip(torch.cat([last.mean(1), (last.var(1) + 1e-4).sqrt()], -1))
        frames = self.frame(last).split(list(PER_FRAME.values()), -1)
        return dict(zip(PER_FRAME, frames, strict=True)), dict(zip(PER_CLIP, clip.split(list(PER_CLIP.values()), -1), strict=True))

    def heard(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """How differently two waves (B, T * HOP) sound: layers as shares of their spread, and the answers. Weighted scalars."""
        with torch.no_grad():
            wanted = self.layers(true)
            frames, clip = self.answers(wanted)
        found = self.layers(made)
        apart = [(a - b).abs().mean() / (b - b.mean((0, 1))).abs().mean() for a, b in zip(found, wanted, strict=True)]
        own_frames, own_clip = self.answers(found)
        terms = {
            "layers": torch.stack(apart).mean(),
            "frames": sum_of(divergence(own_frames[name], frames[name], name in ("chords", "bits")) for name in frames),
        }
        heard = {f"heard_{name}": HEARD[name] * term for name, term in terms.items()}
        return heard | {f"heard_{name}": TOLD[name] * divergence(own_clip[name], clip[name]) for name in clip}


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalars."""
    return torch.stack(list(terms)).sum()


def divergence(logits: Tensor, wanted: Tensor, independent: bool = False) -> Tensor:
    """Mean Kullback-Leibler divergence from what is heard in the original; independent: of yes-or-no answers."""
    if independent:
        truth = wanted.sigmoid()
        own = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return (own - F.binary_cross_entropy_with_logits(wanted, truth, reduction="none")).sum(-1).mean()
    return F.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()


def load(runs: Path) -> Listener | None:
    """The trained listener, frozen; None if there is none."""
    path = runs / "music-listener" / "state.pt"
    if not path.is_file():
        return None
    listener = Listener()
    listener.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state"]["average"])
    return listener.eval().requires_grad_(False)


class Feeder:
    """Draws crops with their answers, louder and quieter, through other filters, with noise."""

    def __init__(self, data: MusicSet, seed: int) -> None:
        self.data, self.rng = data, np.random.default_rng(seed)
        facts = [
            (
                INSTRUMENTS.index(p.lead),
                music.GENRES.index(p.genre),
                music.KEYS.index(p.key) * len(MODES) + MODES.index(p.mode),
                int(p.drums),
            )
            for p in data.pieces
        ]
        self.facts = torch.tensor(facts)

    def batch(self) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Waves (BATCH, FRAMES * HOP), answers of frames and of clips."""
        rows = self.rng.integers(len(self.data.pieces), size=BATCH)
        starts = self.rng.integers(0, 251 - FRAMES, size=BATCH)
        wave = torch.from_numpy(np.stack([self.data.wave(int(row), int(start), FRAMES) for row, start in zip(rows, starts, strict=True)]))
        tilt = torch.from_numpy(self.rng.uniform(-0.5, 0.5, (BATCH, 1)).astype(np.float32))
        wave = wave + tilt * wave.roll(1, -1)  # first-order low or high pass
        wave = wave * torch.from_numpy(self.rng.uniform(0.3, 1.2, (BATCH, 1)).astype(np.float32))
        wave = wave + torch.from_numpy((10 ** self.rng.uniform(-4, -2, (BATCH, 1))).astype(np.float32)) * torch.randn_like(wave)
        spans = starts[:, None] + np.arange(FRAMES)
        labels = self.data.labels
        bits, chords, lead, bass = (
            torch.from_numpy(part[rows[:, None], spans].astype(np.int64)) for part in (labels.bits, labels.chords, labels.lead, labels.bass)
        )
        frames = {
            "lead": pitch_class(lead),
            "bass": pitch_class(bass),
            "chords": unpack(chords, PER_FRAME["chords"]),
            "bits": unpack(bits, PER_FRAME["bits"]),
        }
        return wave, frames, dict(zip(PER_CLIP, self.facts[torch.from_numpy(rows)].T, strict=True))


def train(settings: Settings) -> None:
    """Train or resume within the budget."""
    data, tests = sets(settings)
    run = Run("music-listener", settings)
    torch.manual_seed(settings.seed)
    feeder, listener = Feeder(data, settings.seed), Listener()
    trainer = Averaged(listener, torch.optim.AdamW(listener.parameters(), RATE, weight_decay=0.05), 0.998)
    if (state := run.resume()) is not None:
        trainer.restore(state)
        feeder.rng = np.random.default_rng([settings.seed, trainer.steps])
    while run.going:
        wave, frames, clip = feeder.batch()
        found, told = listener.answers(listener.layers(wave))
        terms = [F.cross_entropy(told[name], clip[name], label_smoothing=0.05) for name in PER_CLIP]
        terms += [F.cross_entropy(found[name].flatten(0, 1), frames[name].flatten()) for name in ("lead", "bass")]
        terms += [2 * F.binary_cross_entropy_with_logits(found[name], frames[name]) for name in ("chords", "bits")]
        trainer.update(torch.stack(terms).sum(), RATE * cosine(run.progress), 1.0)
        if trainer.steps % 100 == 0:
            run.log(loss=float(torch.stack(terms).sum().detach()), **accuracy(listener, tests))
        if run.due():
            run.save(trainer.state())
    run.save(trainer.state())
    run.plot()


@torch.inference_mode()
def accuracy(listener: Listener, tests: MusicSet, count: int = 48) -> dict[str, float]:
    """Shares of right answers on the first test clips, 2.5 s each."""
    listener.eval()
    feeder = Feeder(tests, 0)
    figures: dict[str, list[float]] = {}
    for row in range(count):
        frames, clip = listener.answers(listener.layers(torch.from_numpy(tests.wave(row, 0, 125))[None]))
        for name, truth in zip(PER_CLIP, feeder.facts[row], strict=True):
            figures.setdefault(name, []).append(float(clip[name].argmax() == truth))
        lead = torch.from_numpy(tests.labels.lead[row, :125].astype(np.int64))
        right = (frames["lead"][0].argmax(-1) == lead % 12)[lead > 0]
        if len(right):
            figures.setdefault("lead", []).append(float(right.float().mean()))
    listener.train()
    return {name: float(np.mean(values)) for name, values in figures.items()}
