"""An independent judge of music: hears tempo class, drums, family of the melody, genre, key and mode in 1 to 5 s of sound.

It is trained on rendered pieces only, never against a model, and kept out of the family.

    python -m anygpt_demo.eval.judges_music --budget 3m        # trains or continues runs/judge-music
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.eval.metrics import JUDGES, load_judge, save_judge
from anygpt_demo.media import Audio
from anygpt_demo.synth import music
from anygpt_demo.train.loop import Run, Settings, cosine, parse_budget
from anygpt_demo.train.music_data import FAMILIES, HOP, RATE_HZ, SAMPLES, TEMPOS, MusicSet, sets
from anygpt_demo.train.spectra import LogMel

PATH = JUDGES / "music.safetensors"
BANDS = 64
NOTES = 36  # 12 pitch classes in three registers
REGISTERS_HZ = (55.0, 230.0, 900.0, 3600.0)
WINDOW = 8192  # of the pitch analysis: 3.9 Hz
LAGS = range(8, 104)  # frames: .16 to 2.08 s, periods of the onset curve
SHORTEST = 100  # frames of a training crop
CLASSES: dict[str, tuple[str, ...]] = {"tempo": TEMPOS, "drums": ("no", "yes"), "family": FAMILIES, "genre": music.GENRES}
MODES = tuple(music.MODES)


def truth(piece: music.Piece) -> dict[str, str]:
    """The facts of a piece as the judge names them."""
    return {"tempo": piece.tempo, "drums": "yes" if piece.drums else "no", "family": piece.family, "genre": piece.genre, "mode": piece.mode}


class Ear(nn.Module):
    """Waveform to features: log-mel of each frame and the strength of each pitch class in three registers."""

    window: Tensor
    notes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mel = LogMel(RATE_HZ, 4 * HOP, BANDS)
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("notes", torch.from_numpy(_note_filters()))

    def forward(self, wav: Tensor) -> Tensor:
        """wav: float (B, n), 32 kHz. Returns (B, BANDS + NOTES, n // HOP)."""
        frames = wav.shape[-1] // HOP
        wav = wav * (0.7 / wav.abs().amax(-1, keepdim=True).clamp(min=1e-3))
        mel = (self.mel(wav)[..., :frames].clamp(min=-7.0) + 4.5) / 2
        spectrum = torch.stft(wav, WINDOW, HOP, window=self.window, return_complex=True).abs()[..., :frames]
        notes = (self.notes @ spectrum).sqrt()
        return torch.cat([mel, notes / (notes.mean(1, keepdim=True) + 0.1)], 1)


def _note_filters() -> np.ndarray:
    """float32 (NOTES, WINDOW // 2 + 1): row 12 r + c gathers pitch class c (0 = C) in register r, +-.35 semitones around each note."""
    hz = np.arange(WINDOW // 2 + 1) * RATE_HZ / WINDOW
    pitch = 69 + 12 * np.log2(np.maximum(hz, 1) / 440)
    near = np.maximum(0, 1 - np.abs(pitch - np.round(pitch)) / 0.35)
    rows = np.zeros((NOTES, len(hz)), np.float32)
    for register, (low, high) in enumerate(zip(REGISTERS_HZ, REGISTERS_HZ[1:], strict=False)):
        for bin_ in np.nonzero((hz >= low) & (hz < high))[0]:
            rows[12 * register + int(round(pitch[bin_])) % 12, bin_] = near[bin_]
    return rows


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, 5, stride, 2 * dilation, dilation), nn.BatchNorm1d(outputs), nn.GELU())


class Judge(nn.Module):
    """Features (B, BANDS + NOTES, T) -> logits of CLASSES and of the 24 keys."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _block(BANDS, 96, 2), _block(96, 128, 2), _block(128, 128), _block(128, 128, 1, 2), _block(128, 128, 1, 4), nn.Dropout(0.2)
        )  # fmt: skip
        self.pulse = nn.Sequential(nn.Linear(2 * len(LAGS), 64), nn.GELU())
        self.heads = nn.Linear(3 * 128 + 64, sum(map(len, CLASSES.values())))
        self.key = nn.Sequential(nn.Linear(2 * NOTES, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, len(MODES)))  # shared by all tonics

    def forward(self, features: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Returns {name: (B, classes)} and (B, 12, modes)."""
        mel, notes = features[:, :BANDS], features[:, BANDS:]
        trunk = self.trunk(mel)
        pooled = torch.cat([trunk.mean(-1), trunk.amax(-1), trunk.std(-1), self.pulse(_periods(mel))], 1)
        logits = self.heads(pooled).split([len(names) for names in CLASSES.values()], 1)
        profile = torch.stack([notes.mean(-1), notes[..., :40].mean(-1)], 1).unflatten(2, (3, 12))  # (B, 2, 3, 12)
        turned = torch.stack([profile.roll(-tonic, 3).flatten(1) for tonic in range(12)], 1)
        return dict(zip(CLASSES, logits, strict=True)), self.key(turned)


def _periods(mel: Tensor) -> Tensor:
    """Autocorrelation of the onset curve, of low bands and of all, at LAGS. mel: (B, BANDS, T), T >= 20. Returns (B, 2 * lags)."""
    rise = (mel[..., 1:] - mel[..., :-1]).clamp(min=0)
    curves = torch.stack([rise[:, :12].mean(1), rise.mean(1)], 1)
    curves = curves - curves.mean(-1, keepdim=True)
    size = curves.shape[-1]
    power = torch.fft.rfft(curves, 2 * size).abs().square()
    found = torch.fft.irfft(power)[..., :size] / (torch.arange(size, 0, -1) / size)
    found = found / (found[..., :1] + 1e-6)
    found = F.pad(found, (0, max(0, LAGS.stop - size)))
    return found[..., LAGS.start : LAGS.stop].flatten(1)


class Listener:
    """A trained judge."""

    def __init__(self, judge: Judge) -> None:
        self.ear, self.judge = Ear(), judge.eval()

    @classmethod
    def load(cls, path: Path = PATH) -> Listener:
        """A judge that was trained before."""
        judge = Judge()
        judge.load_state_dict(load_judge(path))
        return cls(judge)

    @torch.inference_mode()
    def hear(self, audio: Audio) -> dict[str, str]:
        """Facts of one clip at 32 kHz, at least .5 s: tempo, drums, family, genre, mode."""
        if audio.rate_hz != RATE_HZ or len(audio.samples) < RATE_HZ // 2:
            raise ValueError("the judge hears at least half a second at 32 kHz")
        logits, keys = self.judge(self.ear(torch.from_numpy(np.ascontiguousarray(audio.samples[:SAMPLES], np.float32))[None]))
        heard = {name: CLASSES[name][int(scores.argmax())] for name, scores in logits.items()}
        return heard | {"mode": MODES[int(keys[0].logsumexp(0).argmax())]}


@dataclass(frozen=True)
class _Known:
    """Features and answers of many clips."""

    features: Tensor  # float16 (n, BANDS + NOTES, T)
    answers: dict[str, Tensor]  # int64 (n,) per class, and "key": tonic * modes + mode

    @classmethod
    @torch.inference_mode()
    def of(cls, data: MusicSet) -> _Known:
        """Listen to every clip of a set."""
        ear = Ear()
        features = torch.cat([ear(torch.from_numpy(data.wave(number))[None]).half() for number in range(len(data.pieces))])
        facts = [truth(piece) for piece in data.pieces]
        answers = {name: torch.tensor([names.index(fact[name]) for fact in facts]) for name, names in CLASSES.items()}
        tonic = [music.KEYS.index(piece.key) * len(MODES) + MODES.index(piece.mode) for piece in data.pieces]
        return cls(features, answers | {"key": torch.tensor(tonic)})


def _loss(judge: Judge, features: Tensor, answers: dict[str, Tensor]) -> Tensor:
    logits, keys = judge(features)
    terms = [F.cross_entropy(scores, answers[name], label_smoothing=0.05) for name, scores in logits.items()]
    return torch.stack([*terms, F.cross_entropy(keys.flatten(1), answers["key"], label_smoothing=0.05)]).sum()


@torch.inference_mode()
def _accuracy(judge: Judge, known: _Known, frames: int) -> dict[str, float]:
    judge.eval()
    logits, keys = judge(known.features[..., :frames].float())
    judge.train()
    found = {name: float((scores.argmax(1) == known.answers[name]).float().mean()) for name, scores in logits.items()}
    mode = keys.logsumexp(1).argmax(1) == known.answers["key"] % len(MODES)
    return found | {"mode": float(mode.float().mean())}


def train(settings: Settings, path: Path = PATH) -> None:
    """Train or continue the judge within the budget (feature extraction counts) and write it to `path`."""
    torch.manual_seed(settings.seed)
    run = Run("judge-music", settings)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.05)
    state: dict[str, Any] | None = run.resume()
    if state is not None:
        judge.load_state_dict(state["judge"])
        optimizer.load_state_dict(state["optimizer"])
    known, tests = (_Known.of(data) for data in sets(settings))
    rng, steps, begun = np.random.default_rng(settings.seed), 0, run.progress
    while run.going:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine((run.progress - begun) / max(1e-6, 1 - begun))
        rows = torch.from_numpy(rng.integers(len(known.features), size=32))
        frames = int(rng.integers(SHORTEST, 251))
        start = int(rng.integers(0, 251 - frames)) if rng.random() < 0.5 else 0
        features = known.features[rows][..., start : start + frames].float()
        features = features + float(rng.uniform(0, 0.25)) * torch.randn_like(features)
        loss = _loss(judge, features, {name: answer[rows] for name, answer in known.answers.items()})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % 100 == 0:
            run.log(loss=float(loss.detach()), **_accuracy(judge, tests, 250))
    run.log(**{f"{name} 2.5 s": value for name, value in _accuracy(judge, tests, 125).items()})
    run.save({"judge": judge.state_dict(), "optimizer": optimizer.state_dict()})
    if not run.stopping:
        save_judge(judge, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args(arguments)
    train(Settings(budget_s=parse_budget(given.budget), runs=given.runs))


if __name__ == "__main__":
    main()
