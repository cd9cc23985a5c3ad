"""The music codec: transformers' EncodecModel, with its small and its official settings and its two spellings of weight norm.

Dimension names: B batch, T frames (50 Hz), Q residual levels (4), D latent width, n samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

OFFICIAL: dict[str, Any] = {  # facebook/encodec_32khz
    "audio_channels": 1,
    "codebook_dim": 128,
    "codebook_size": 2048,
    "hidden_size": 128,
    "norm_type": "weight_norm",
    "normalize": False,
    "num_filters": 64,
    "num_lstm_layers": 2,
    "sampling_rate": 32000,
    "target_bandwidths": [2.2],
    "upsampling_ratios": [8, 5, 4, 4],
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}
SMALL: dict[str, Any] = {**OFFICIAL, "num_filters": 16}

TRAINING_BUFFERS = ("cluster_size", "embed_avg")  # of a codebook; not exported, 2 MB
OLD_NAMES = ((".weight_g", ".parametrizations.weight.original0"), (".weight_v", ".parametrizations.weight.original1"))


def build(config: Mapping[str, Any]) -> EncodecModel:
    """An untrained model; its codebooks are zero."""
    return EncodecModel(EncodecConfig(**dict(config)))


def without_training_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that encoding and decoding need."""
    return {key: tensor for key, tensor in state.items() if not key.endswith(TRAINING_BUFFERS)}


def with_training_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names, with the buffers that were left out rebuilt: every code counted once."""
    full: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for old, new in OLD_NAMES:
            key = key.replace(old, new)
        full[key] = tensor
    for key in [key for key in full if key.endswith("codebook.embed")]:
        full.setdefault(key.replace("embed", "cluster_size"), torch.ones(len(full[key])))
        full.setdefault(key + "_avg", full[key].clone())
    return full


@torch.inference_mode()
def encode(model: EncodecModel, wav: Tensor) -> Tensor:
    """wav: float32 (B, 1, n) in [-1, 1]. Returns codes int64 (B, T, Q), T = ceil(n / 640)."""
    codes: Tensor = model.encode(wav).audio_codes[0]
    return codes.transpose(1, 2)


@torch.inference_mode()
def decode(model: EncodecModel, codes: Tensor) -> Tensor:
    """codes: int64 (B, T, Q). Returns float32 (B, 1, 640 T)."""
    wav: Tensor = model.decode(codes.transpose(1, 2)[None], [None]).audio_values
    return wav
