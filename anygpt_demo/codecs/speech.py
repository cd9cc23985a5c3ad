"""Speech: 50 semantic codes per second (level 1 of SpeechTokenizer); the voice is added when it is spoken."""

from __future__ import annotations

from anygpt_demo.modality import Modality, Sampling

MODALITY = Modality(
    name="speech",
    kind="audio",
    symbol="🗣\ufe0f",
    marks=("<sosp>", "<eosp>"),
    codebook=1024,
    layers=1,
    frames=range(1, 1501),
    frame_rate_hz=50.0,
    sample_rate_hz=16_000,
    sampling=Sampling(top_p=0.7),
)
