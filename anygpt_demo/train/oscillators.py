"""Oscillators in the decoder of the music codec: one for each semitone, in the units of its LSTM.

The same code fifty times is the same 20 ms fifty times, a comb of 50 Hz in which no chord can be heard, and no network learns phases from
codes that do not tell them. So the first UNITS units of the LSTM's first layer are set, not trained: pairs that a turn by their note's
phase in one frame keeps going, whatever is played, and HISS more that turn by anything, which together are a noise. The same units of the
second layer pass them on through their output gates, which the codes open and close. The convolutions behind them learn from an exact
target: oscillators have a known phase, so the sound that they should make is known sample by sample (Tones.sound). In 4 minutes
what they miss is 15 dB below it; from spectra alone they never find it.

Dimension names: B batch, T frames (50 Hz), N notes, H units of the LSTM, n samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncodecModel

from anygpt_demo.models import encodec
from anygpt_demo.train.music_data import HOP, RATE_HZ
from anygpt_demo.train.quantizer import lsuv

NOTES, LOWEST = 84, 33  # semitones from 55 Hz up (MIDI number)
HISS = 12  # pairs
UNITS = 2 * (NOTES + HISS)
GAIN, KICK = 1.25, 0.05  # of an oscillator in one frame, and what starts it from silence; with tanh all stay within 10 cents of their note
PASS = 1.5  # gain of the second layer
GATES = 20.0  # weight of what opens the gates: most notes are silent most of the time
LOUDEST, FAINTEST = 0.3, math.exp(-6.0)  # amplitude of a fully open gate, and the share of it that counts as silence
KINDS = (nn.Conv1d, nn.ConvTranspose1d)
WINDOWS = ((8192, 0.0, 250.0), (4096, 250.0, 1000.0), (2048, 1000.0, 1e9))  # of the analysis, and the notes it is for, Hz


def hertz() -> np.ndarray:
    """Frequencies of the notes, float64 (N,)."""
    return np.asarray(440 * 2 ** ((LOWEST + np.arange(NOTES) - 69) / 12))


def turns() -> np.ndarray:
    """What each pair turns by in one frame, radians, float64 (NOTES + HISS,): those of the noise are spread over all angles."""
    spread = np.pi * (np.arange(1, HISS + 1) * (math.sqrt(5) - 1) / 2 % 1)
    return np.concatenate([2 * np.pi * hertz() * HOP / RATE_HZ, spread])


def part(codec: EncodecModel) -> nn.LSTM:
    """The decoder's LSTM."""
    found: nn.LSTM = codec.decoder.layers[1].lstm
    return found


def tuned(codec: EncodecModel) -> bool:
    """Whether the oscillators are there."""
    lstm = part(codec)
    return not bool(lstm.weight_ih_l0[:UNITS].any())


@torch.no_grad()
def tune(codec: EncodecModel) -> None:
    """Put the oscillators in, with closed gates and untrained convolutions behind them."""
    lstm, size = part(codec), part(codec).hidden_size
    for layer, levels in enumerate(((4.0, -6.0, 0.0, 4.0), (4.0, -6.0, 0.0, -2.0))):  # input, forget, cell, output
        inner, outer, bias, other = _weights(lstm, layer)
        for gate, level in enumerate(levels):
            rows = slice(gate * size, gate * size + UNITS)
            inner[rows], bias[rows], other[rows] = 0.0, level, 0.0
            if (layer, gate) == (1, 3):
                opening = torch.empty(UNITS // 2, size).uniform_(-1, 1) / math.sqrt(size)
                opening[:, :UNITS] = 0.0
                outer[rows] = opening.repeat_interleave(2, 0)
            else:
                outer[rows] = 0.0
    inner, _, bias, _ = _weights(lstm, 0)
    for number, turn in enumerate(turns()):
        cos, sin, first = GAIN * math.cos(turn), GAIN * math.sin(turn), 2 * number
        inner[2 * size + first : 2 * size + first + 2, first : first + 2] = torch.tensor([[cos, -sin], [sin, cos]])
        bias[2 * size + first] = KICK
    lstm.weight_ih_l1[2 * size : 2 * size + UNITS, :UNITS] = PASS * torch.eye(UNITS)
    enter = codec.decoder.layers[0].conv
    enter.parametrizations.weight.original0[:UNITS] = 0.0  # the LSTM's input is added to its output
    enter.bias[:UNITS] = 0.0
    fresh = encodec.build(codec.config.to_dict()).decoder.layers[2:]
    lsuv(nn.Sequential(*fresh), torch.randn(2, size, 50) * 0.1, KINDS, last=0.1)
    fresh[1].conv.parametrizations.weight.original0[UNITS:] *= 0.02  # what is added to the oscillators begins as good as silent
    codec.decoder.layers[2:].load_state_dict(fresh.state_dict())


def hold(codec: EncodecModel) -> None:
    """Keep training away from what is set: its gradients become zero."""
    lstm, size = part(codec), part(codec).hidden_size
    for layer in (0, 1):
        for name, weight in zip(("inner", "outer", "bias", "other"), _weights(lstm, layer), strict=True):
            mask = torch.ones_like(weight)
            for gate in range(4):
                rows = slice(gate * size, gate * size + UNITS)
                if (layer, gate) != (1, 3) or name == "inner":
                    mask[rows] = 0.0
                elif name == "outer":
                    mask[rows, :UNITS] = 0.0
            weight.register_hook(lambda gradient, mask=mask: gradient * mask)  # type: ignore[no-untyped-call]
    enter = codec.decoder.layers[0].conv
    open_rows = (torch.arange(size) >= UNITS).float()
    enter.bias.register_hook(lambda gradient: gradient * open_rows)
    enter.parametrizations.weight.original0.register_hook(lambda gradient: gradient * open_rows[:, None, None])


def _weights(lstm: nn.LSTM, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Recurrent and input weights, and their biases; gates in rows: input, forget, cell, output."""
    inner, outer, bias, other = (getattr(lstm, f"{name}_l{layer}") for name in ("weight_hh", "weight_ih", "bias_ih", "bias_hh"))
    return inner, outer, bias, other


def first_layer(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """What the first layer makes of x (T, B, H), the same shape."""
    rest = x.new_zeros(1, x.shape[1], x.shape[2])
    inner, outer, bias, other = _weights(lstm, 0)
    found: Tensor = torch.lstm(x, (rest, rest), [outer, inner, bias, other], True, 1, 0.0, False, False, False)[0]
    return found


def openings(codec: EncodecModel, latent: Tensor) -> Tensor:
    """How far codes open the gates: logits (B, UNITS, T). latent: (B, D, T)."""
    lstm, size = part(codec), part(codec).hidden_size
    heard = first_layer(lstm, codec.decoder.layers[0](latent).permute(2, 0, 1))
    _, outer, bias, other = _weights(lstm, 1)
    rows = slice(3 * size, 3 * size + UNITS)
    return (heard @ outer[rows].T + bias[rows] + other[rows]).permute(1, 2, 0)


class NoteShares(nn.Module):
    """What of a recording the oscillators could play."""

    def __init__(self) -> None:
        super().__init__()
        for window, low, high in WINDOWS:
            self.register_buffer(f"window{window}", torch.hann_window(window))
            self.register_buffer(f"filters{window}", torch.from_numpy(_filters(window, hertz()[(hertz() >= low) & (hertz() < high)])))

    @torch.no_grad()
    def shares(self, wave: Tensor) -> Tensor:
        """Amplitude of each note in a wave (B, n) as a share of LOUDEST, FAINTEST to .95: (B, N, n / HOP)."""
        frames, found = wave.shape[-1] // HOP, []
        for window, _, _ in WINDOWS:
            spectrum = torch.stft(wave, window, HOP, window=self.get_buffer(f"window{window}"), return_complex=True)[..., :frames]
            found.append((self.get_buffer(f"filters{window}") @ (spectrum.real.square() + spectrum.imag.square())).clamp(min=0).sqrt())
        return (torch.cat(found, 1) / LOUDEST).clamp(FAINTEST, 0.95)


class Tones(NoteShares):
    """What the oscillators do in the first `frames` frames."""

    passed: Tensor
    bank: Tensor

    @torch.no_grad()
    def __init__(self, codec: EncodecModel, frames: int) -> None:
        super().__init__()
        lstm = part(codec)
        states = first_layer(lstm, torch.zeros(frames + 1, 1, lstm.hidden_size))[:, 0, :UNITS]
        self.register_buffer("passed", (0.982 * (PASS * states[:-1]).tanh()).tanh().T.clone())  # (UNITS, T)
        pairs = torch.view_as_complex(states[:, : 2 * NOTES].reshape(frames + 1, NOTES, 2)).numpy()
        nominal = turns()[:NOTES]
        steps = nominal + (np.diff(np.angle(pairs), axis=0) - nominal + np.pi) % (2 * np.pi) - np.pi  # (T, N)
        along = np.arange(HOP) / HOP
        phase = np.angle(pairs)[:-1, :, None] + steps[:, :, None] * along
        size = np.abs(pairs) / np.abs(pairs[-1])
        size = np.minimum(1.0, size[:-1, :, None] * (1 - along) + size[1:, :, None] * along)
        bank = (size * np.cos(phase)).transpose(1, 0, 2).reshape(NOTES, -1)
        self.register_buffer("bank", torch.from_numpy(bank.astype(np.float32)))  # (N, T * HOP): each note at amplitude 1

    @torch.no_grad()
    def sound(self, shares: Tensor) -> Tensor:
        """What gates opened by shares (B, N, T) should let through: (B, T * HOP)."""
        loud = LOUDEST * shares * (shares > 1.01 * FAINTEST)
        after, along = torch.cat([loud[..., 1:], loud[..., -1:]], -1), torch.arange(HOP) / HOP
        sizes = (now[..., None] * (1 - along) + then[..., None] * along for now, then in zip(loud, after, strict=True))
        return torch.stack([(size.flatten(1) * self.bank).sum(0) for size in sizes])

    def missed(self, codec: EncodecModel, wave: Tensor) -> Tensor:
        """How far the convolutions are from the oscillators' exact sound, with gates as a wave (B, T * HOP) would open them: a scalar."""
        shares = self.shares(wave)
        wanted = self.sound(shares)
        made = self.passed[: 2 * NOTES] * shares.repeat_interleave(2, 1)
        made = F.pad(made, (0, 0, 0, part(codec).hidden_size - 2 * NOTES))
        for layer in codec.decoder.layers[2:]:
            made = layer(made)
        missed = (made[:, 0, : wanted.shape[-1]] - wanted).square().sum(1) / (wanted.square().sum(1) + 1e-2)
        return 2 * missed.mean()


def gates_loss(codec: EncodecModel, latent: Tensor, shares: Tensor) -> Tensor:
    """Gates that codes (B, D, T) open against notes (B, N, T): some are told wrongly, so it is the mean that they learn, not the median."""
    return GATES * F.binary_cross_entropy_with_logits(openings(codec, latent)[:, : 2 * NOTES], shares.repeat_interleave(2, 1))


def _filters(window: int, notes: np.ndarray) -> np.ndarray:
    """Rows that sum a power spectrum around each note, as wide as the window sees it: float32 (notes, window // 2 + 1).

    A tone of amplitude 1 gives 1.
    """
    bins = np.maximum(1, np.arange(window // 2 + 1) * RATE_HZ / window)
    width = np.maximum(1, 12 * np.log2(1 + RATE_HZ / window / notes))[:, None]
    rows = np.maximum(0, 1 - np.abs(12 * np.log2(bins[None] / notes[:, None])) / width)
    times = np.arange(window) / RATE_HZ
    spectra = np.abs(np.fft.rfft(np.hanning(window) * np.cos(2 * np.pi * notes[:, None] * times))) ** 2
    return np.asarray(rows / (rows * spectra).sum(1, keepdims=True), np.float32)
