"""Stage speech-listener: a small network that hears phones and voices. Not shipped: it tells the decoder of the speech codec how it sounds.

Spectra alone leave to chance what a decoder spends its few weights on; what an ear attends to are sounds and voices. The network is trained
on the recordings (phones by their labels, voices by who speaks, each at three playing speeds) and then frozen. It is not the judge: those
are other networks, trained by others.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.errors import ModelFault
from anygpt_demo.train.loop import Averaged, Run, Settings, cosine
from anygpt_demo.train.speech_data import PHONES, Clip, SpeechSet, disturb, open_sets
from anygpt_demo.train.speech_teacher import MELS, Block, mel_filters

WIDTH, DEPTH, KERNEL = 160, 5, 7
PHONES_AFTER = 3  # blocks; voices are told after all of them
VOICE = 96  # size of the vector that tells a voice
SPEEDS = (-0.13, 0.0, 0.13)  # logarithms of playing speeds: each makes another voice of somebody
NAMED = ("kathleen", "librispeech_clean251")  # recordings whose speaker is known
FRAMES, BATCH = 60, 16  # of a training crop: 1.2 s
HUMAN_SHARE = 0.5  # of the crops
RATE = 2e-3
SHARPNESS, MARGIN = 20.0, 0.1  # of the softmax over voices (additive margin: Wang et al. 2018, arXiv 1801.05599)
VOICE_WEIGHT = 0.3
HEARD = {"layers": 2.0, "voice": 5.0, "phones": 0.5}  # weights of what the listener says of a decoder's sound


class Listener(nn.Module):
    """Waves at 16 kHz to phones (50 a second) and a voice vector. T frames of 320 samples."""

    window: Tensor
    filters: Tensor

    def __init__(self, voices: int) -> None:
        """voices: classes of the training data."""
        super().__init__()
        self.register_buffer("window", torch.hann_window(512))
        self.register_buffer("filters", mel_filters())
        self.enter = nn.Linear(2 * MELS, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, KERNEL) for _ in range(DEPTH))
        self.phones = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, PHONES))
        self.voice = nn.Linear(2 * WIDTH, VOICE)
        self.voices = nn.Parameter(torch.randn(voices, VOICE))

    def layers(self, wave: Tensor) -> list[Tensor]:
        """What each block makes of a wave (B, T * 320): float (B, T, WIDTH) each."""
        spectrum = torch.stft(F.pad(wave, (176, 176)), 512, 160, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = ((self.filters @ power + 1e-5).log().transpose(1, 2) + 4.0) / 4.0  # (B, 2T, MELS), about unit size
        x = self.enter(mel.reshape(len(mel), -1, 2 * MELS))
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def phone_logits(self, layers: list[Tensor]) -> Tensor:
        """(B, T, PHONES)."""
        logits: Tensor = self.phones(layers[PHONES_AFTER - 1])
        return logits

    def voice_vector(self, layers: list[Tensor]) -> Tensor:
        """Unit vectors (B, VOICE)."""
        last = layers[-1]
        return F.normalize(self.voice(torch.cat([last.mean(1), (last.var(1) + 1e-4).sqrt()], -1)), dim=-1)

    def heard(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """How differently two waves (B, T * 320) sound: layers as shares of their spread, voices, and phones. Weighted scalars."""
        with torch.no_grad():
            wanted = self.layers(true)
            phones, voice = self.phone_logits(wanted).log_softmax(-1), self.voice_vector(wanted)
        found = self.layers(made)
        apart = [(a - b).abs().mean() / (b - b.mean((0, 1))).abs().mean() for a, b in zip(found, wanted, strict=True)]
        terms = {
            "layers": torch.stack(apart).mean(),
            "voice": 1 - (self.voice_vector(found) * voice).sum(-1).mean(),
            "phones": F.kl_div(self.phone_logits(found).log_softmax(-1), phones, log_target=True, reduction="none").sum(-1).mean(),
        }
        return {f"heard_{name}": HEARD[name] * term for name, term in terms.items()}


class Feeder:
    """Draws crops with phones and the number of their voice (-1: nobody knows)."""

    def __init__(self, sets: dict[str, SpeechSet], seed: int) -> None:
        self.sets, self.rng = sets, np.random.default_rng(seed)
        clips = [clip for home in sets.values() for clip in home.clips if clip.split == "train" and clip.frames > 20]
        if not clips:
            raise ModelFault("There is no speech to train on.", "No finished set lies in runs/data/speech.", "Make the speech data first.")
        self.pools = [[clip for clip in clips if (clip.set == "human") == human] for human in (False, True)]
        names = sorted({clip.voice for clip in clips if self.known(clip)})
        self.numbers = {name: number for number, name in enumerate(names)}
        # somebody of whom there is one recording is heard as often as somebody of whom there are thousands
        self.weights = []
        for pool in self.pools:
            counts: dict[str, int] = {}
            for clip in pool:
                counts[clip.voice] = counts.get(clip.voice, 0) + 1
            weights = np.array([counts[clip.voice] ** -0.7 for clip in pool])
            self.weights.append(np.cumsum(weights / weights.sum()) if pool else weights)

    @staticmethod
    def known(clip: Clip) -> bool:
        """Whether it is known who speaks."""
        return clip.set != "human" or clip.source in NAMED

    @property
    def voices(self) -> int:
        """Number of classes."""
        return len(self.numbers) * len(SPEEDS)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Waves (BATCH, FRAMES * 320), phones (BATCH, FRAMES), voices (BATCH,)."""
        rows = []
        for _ in range(BATCH):
            human = bool(self.pools[1]) and (not self.pools[0] or self.rng.random() < HUMAN_SHARE)
            pool, weights = self.pools[human], self.weights[human]
            clip = pool[min(int(np.searchsorted(weights, self.rng.random())), len(pool) - 1)]
            first = int(self.rng.integers(0, max(1, clip.frames - FRAMES)))
            home, span = self.sets[clip.set], math.ceil(FRAMES * 1.2) + 1
            speed = int(self.rng.integers(len(SPEEDS)))
            wave, labels = home.wave(clip, first, span), home.labels(clip, first, span)
            heard, _, phones = disturb(wave, labels, self.rng, FRAMES, math.exp(SPEEDS[speed]))
            rows.append((heard, phones, self.numbers[clip.voice] * len(SPEEDS) + speed if self.known(clip) else -1))
        waves, phones, voices = zip(*rows, strict=True)
        return torch.from_numpy(np.stack(waves)), torch.from_numpy(np.stack(phones)), torch.tensor(voices)


def voice_loss(listener: Listener, vectors: Tensor, voices: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the known voices, and how many are told right. vectors: (B, VOICE), voices: int64 (B,)."""
    known = voices >= 0
    cosines = vectors[known] @ F.normalize(listener.voices, dim=-1).T
    truth = F.one_hot(voices[known], cosines.shape[-1])
    loss = F.cross_entropy(SHARPNESS * (cosines - MARGIN * truth), voices[known])
    return loss, (cosines.argmax(-1) == voices[known]).float().mean()


def load(runs: Path) -> Listener | None:
    """The trained listener, frozen; None if there is none."""
    path = runs / "speech-listener" / "state.pt"
    if not path.is_file():
        return None
    weights = torch.load(path, map_location="cpu", weights_only=True)["state"]["average"]
    listener = Listener(len(weights["voices"]))
    listener.load_state_dict(weights)
    return listener.eval().requires_grad_(False)


def train(settings: Settings) -> None:
    """Train or resume within the budget."""
    run = Run("speech-listener", settings)
    torch.manual_seed(settings.seed)
    feeder = Feeder(open_sets(settings.runs / "data" / "speech"), settings.seed)
    listener = Listener(feeder.voices)
    trainer = Averaged(listener, torch.optim.AdamW(listener.parameters(), RATE, weight_decay=0.02), 0.998)
    if (state := run.resume()) is not None:
        trainer.restore(state)
        feeder.rng = np.random.default_rng([settings.seed, trainer.steps])
    means: list[tuple[float, ...]] = []
    while run.going:
        waves, phones, voices = feeder.batch()
        layers = listener.layers(waves)
        logits, known = listener.phone_logits(layers).flatten(0, 1), phones.flatten() >= 0
        said = F.cross_entropy(logits[known], phones.flatten()[known])
        voice, told = voice_loss(listener, listener.voice_vector(layers), voices)
        trainer.update(said + VOICE_WEIGHT * voice, RATE * cosine(run.progress), 1.0)
        right = (logits[known].argmax(-1) == phones.flatten()[known]).float().mean()
        means.append((float(said.detach()), float(right), float(voice.detach()), float(told)))
        if trainer.steps % 100 == 0:
            run.log(**dict(zip(("phones", "phones_right", "voices", "voices_right"), np.mean(means, 0).tolist(), strict=True)))
            means.clear()
        if run.due():
            run.save(trainer.state())
    run.save(trainer.state())
    run.plot()
