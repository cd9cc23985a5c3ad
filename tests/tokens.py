"""A modality that only tests have, and the builder of small tokenizer folders."""

from __future__ import annotations

from anygpt_demo.mockup import write_tokenizer
from anygpt_demo.modality import Modality, Sampling

__all__ = ["GESTURE", "write_tokenizer"]

GESTURE = Modality(  # a modality that the package does not have
    name="gesture",
    kind="audio",
    symbol="👋",
    marks=("<soge>", "<eoge>"),
    codebook=16,
    layers=3,
    frames=range(2, 9),
    frame_rate_hz=10.0,
    sample_rate_hz=1000,
    sampling=Sampling(top_k=5),
)
