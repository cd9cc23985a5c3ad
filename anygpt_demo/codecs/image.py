"""Pictures: 32 causal codes each, in reading order of meaning rather than of place (SEED tokenizer)."""

from __future__ import annotations

from anygpt_demo.modality import Modality, Sampling

MODALITY = Modality(
    name="image",
    kind="image",
    symbol="👀",
    marks=("<soim>", "<eoim>"),
    codebook=8192,
    layers=1,
    frames=range(32, 33),
    frame_rate_hz=None,
    sample_rate_hz=None,
    sampling=Sampling(top_p=0.7),
)
