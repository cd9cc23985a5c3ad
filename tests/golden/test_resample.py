"""The resampler gives torchaudio's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anygpt_demo.media import resample


def test_resample_equals_torchaudio(golden_dir: Path) -> None:
    with np.load(golden_dir / "audio" / "resample.npz") as pairs:
        inputs = [key for key in pairs.files if key.startswith("x_")]
        assert inputs
        for key in inputs:
            source_hz, target_hz = map(int, key.split("_")[1:])
            expected = pairs["y" + key[1:]]
            np.testing.assert_allclose(resample(pairs[key], source_hz, target_hz), expected, rtol=0, atol=1e-5, err_msg=key)
