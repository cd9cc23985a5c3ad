"""Parity of the picture decoder of the official family with the published unCLIP code: conditioning, latents, pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.models.unclip import UnclipDecoder
from tests.golden import places

RUN = re.compile(r"steps(\d+)_gs([\d.]+)_(zero|neg)_latents")


def cases() -> list[Path]:
    """Every folder with a pipeline and its golden.npz."""
    return sorted(path.parent for path in places.part("unclip").glob("*/golden.npz"))


@pytest.fixture(scope="module", params=cases(), ids=lambda path: path.name)
def case(request: pytest.FixtureRequest) -> tuple[UnclipDecoder, dict[str, np.ndarray]]:
    folder: Path = request.param
    return UnclipDecoder.load(folder), dict(np.load(folder / "golden.npz"))


def _seed(golden: dict[str, np.ndarray]) -> int:
    """The seed of every recorded call; the recorded noise is named after it."""
    return next(int(name.removeprefix("embed_noise_seed")) for name in golden if name.startswith("embed_noise_seed"))


def _tensor(golden: dict[str, np.ndarray], name: str) -> torch.Tensor:
    return torch.from_numpy(golden[name])


def test_noised_embeddings(case: tuple[UnclipDecoder, dict[str, np.ndarray]]) -> None:
    decoder, golden = case
    noises = [name for name in golden if name.startswith("embed_noise_seed")]
    levels = [name for name in golden if name.startswith("noised_embeds_level")]
    assert noises and levels
    for name in levels:
        level = int(name.removeprefix("noised_embeds_level"))
        found = decoder.conditioning(_tensor(golden, "image_embeds"), level, noise=_tensor(golden, noises[0]))
        np.testing.assert_allclose(found.numpy(), golden[name], rtol=1e-4, atol=1e-5)


def test_latents_and_conditioning(case: tuple[UnclipDecoder, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, golden = case
    runs = [match for match in map(RUN.fullmatch, golden) if match]
    assert runs
    for match in runs:
        steps, guidance, negative = int(match[1]), float(match[2]), match[3] == "neg"
        name = match[0].removesuffix("latents")
        calls: list[tuple[int, torch.Tensor]] = []
        forward = decoder.pipeline.unet.forward

        def watch(sample: torch.Tensor, time: torch.Tensor, *rest: object, forward=forward, calls=calls, **more: object) -> object:  # type: ignore[no-untyped-def]
            calls.append((int(time), more["class_labels"]))  # type: ignore[arg-type]
            return forward(sample, time, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(decoder.pipeline.unet, "forward", watch)
            if negative and guidance > 1:
                _use_negative(decoder, _tensor(golden, "negative_image_embeds"), patch)
            torch.manual_seed(_seed(golden))
            found = decoder.run(
                _tensor(golden, "image_embeds"), steps=steps, guidance=guidance, latents=_tensor(golden, "latents"), output="latent"
            )
        assert [time for time, _ in calls] == golden[name + "timesteps"].tolist()
        assert len(calls) == int(golden[name + "unet_calls"])
        np.testing.assert_allclose(calls[0][1].detach().numpy(), golden[name + "class_labels"], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(np.asarray(found), golden[match[0]], rtol=0, atol=1e-3 if guidance > 1 else 1e-4, err_msg=name)


def _use_negative(decoder: UnclipDecoder, negative: torch.Tensor, patch: pytest.MonkeyPatch) -> None:
    """The published copy of the pipeline may put a second embedding, noised after the first, in the place of the zeros."""
    encode = decoder.pipeline._encode_image

    def with_negative(*rest: object, **more: object) -> torch.Tensor:
        labels: torch.Tensor = encode(*rest, **more)
        return torch.cat([decoder.conditioning(negative), labels[len(labels) // 2 :]])

    patch.setattr(decoder.pipeline, "_encode_image", with_negative)


def test_pictures(case: tuple[UnclipDecoder, dict[str, np.ndarray]]) -> None:
    decoder, golden = case
    names = [name for name in golden if name.startswith("image_steps")]
    assert names
    for name in names:
        steps, guidance = re.fullmatch(r"image_steps(\d+)_gs([\d.]+)", name).groups()  # type: ignore[union-attr]
        torch.manual_seed(_seed(golden))
        found = decoder.run(_tensor(golden, "image_embeds"), steps=int(steps), guidance=float(guidance), latents=_tensor(golden, "latents"))
        np.testing.assert_allclose(np.asarray(found), golden[name], rtol=0, atol=1e-3)


def test_equal_seeds_give_equal_pictures(case: tuple[UnclipDecoder, dict[str, np.ndarray]]) -> None:
    decoder, golden = case
    embedding = _tensor(golden, "image_embeds")
    first, second, third = (decoder.picture(embedding, seed) for seed in (1, 1, 2))
    assert first.dtype == np.uint8 and first.shape[2] == 3
    assert np.array_equal(first, second) and not np.array_equal(first, third)
