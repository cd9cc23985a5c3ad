"""Mel spectra and the multi-scale mel loss of the codecs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mel_filters(rate_hz: int, window: int, bands: int) -> np.ndarray:
    """Triangular filters on the mel scale of Slaney (linear below 1 kHz), unit area. Returns float32 (bands, window // 2 + 1)."""
    step = np.log(6.4) / 27

    def to_mel(hz: np.ndarray) -> np.ndarray:
        return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1) / 1000) / step)

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * step))

    edges = to_hz(np.linspace(0, float(to_mel(np.array(rate_hz / 2))), bands + 2))
    bins = np.linspace(0, rate_hz / 2, window // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


class LogMel(nn.Module):
    """Natural log of mel magnitudes, floored at 1e-4."""

    window: Tensor
    filters: Tensor

    def __init__(self, rate_hz: int, window: int, bands: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window))
        self.register_buffer("filters", torch.from_numpy(mel_filters(rate_hz, window, bands)))

    def forward(self, wav: Tensor) -> Tensor:
        """wav: (B, n), n > window / 2. Returns (B, bands, 1 + 4 n / window)."""
        size = len(self.window)
        spectrum = torch.stft(wav, size, size // 4, window=self.window, return_complex=True)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return (self.filters @ magnitude).clamp(min=1e-4).log()


class MelLoss(nn.Module):
    """Sum over scales of the mean absolute difference of log-mel spectra."""

    def __init__(self, rate_hz: int, scales: Sequence[tuple[int, int]] = ((256, 32), (512, 48), (1024, 80), (2048, 80))) -> None:
        """scales: (window in samples, mel bands)."""
        super().__init__()
        self.scales = nn.ModuleList(LogMel(rate_hz, window, bands) for window, bands in scales)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """wav, target: (B, n). Returns a scalar."""
        return torch.stack([F.l1_loss(scale(wav), scale(target)) for scale in self.scales]).sum()
