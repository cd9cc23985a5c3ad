"""Music: 50 frames per second of 4 codes, one from each codebook of EnCodec 32 kHz."""

from __future__ import annotations

from anygpt_demo.modality import Modality, Sampling

MODALITY = Modality(
    name="music",
    kind="audio",
    symbol="🎶",
    marks=("<somu>", "<eomu>"),
    codebook=2048,
    layers=4,
    frames=range(1, 251),
    frame_rate_hz=50.0,
    sample_rate_hz=32_000,
    sampling=Sampling(top_k=200, repetition_penalty=1.15),
)
