"""Stable unCLIP (diffusers' stock pipeline): an image embedding becomes a picture.

The official settings: embedding from the picture codes, empty prompt, guidance 10, 20 steps, noise level 0. Level 0
still mixes a little noise into the embedding, drawn from the generator, so a seed is needed for repeatable pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import StableUnCLIPImg2ImgPipeline

STEPS = 20
GUIDANCE = 10.0


@dataclass(frozen=True)
class UnclipDecoder:
    """The pipeline with the empty prompt already encoded. E: width of the image embedding."""

    pipeline: StableUnCLIPImg2ImgPipeline
    prompt: Tensor  # (1, tokens, width): the empty prompt, for both halves of the guidance

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> UnclipDecoder:
        """Read a diffusers folder; half precision on a GPU."""
        from diffusers import StableUnCLIPImg2ImgPipeline

        dtype = torch.float32 if device == "cpu" else torch.float16
        pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(str(folder), torch_dtype=dtype, local_files_only=True).to(device)
        pipeline.set_progress_bar_config(disable=True)
        prompt, _ = pipeline.encode_prompt("", torch.device(device), 1, False)
        return cls(pipeline, prompt.detach())

    def conditioning(self, embedding: Tensor, noise_level: int = 0, noise: Tensor | None = None) -> Tensor:
        """Embedding (B, E) -> what the UNet receives (B, 2E): the noised embedding and the embedded noise level."""
        with torch.no_grad():
            return self.pipeline.noise_image_embeddings(embedding, noise_level, noise)

    def run(
        self,
        embedding: Tensor,
        *,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        noise_level: int = 0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output: str = "np",
        each_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Tensor | np.ndarray:
        """One picture per embedding (B, E). output "latent": (B, 4, h, w); "np": float32 (B, H, W, 3) in [0, 1].

        each_step(step, time, latents) is called after every step; it may raise to stop.
        """
        result = self.pipeline(
            image_embeds=embedding.to(self.prompt),
            prompt_embeds=self.prompt,
            negative_prompt_embeds=self.prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            noise_level=noise_level,
            generator=generator,
            latents=latents,
            output_type=output,
            callback=each_step,
        )
        return result.images

    def picture(self, embedding: Tensor, seed: int) -> np.ndarray:
        """uint8 (H, W, 3) with the official settings. embedding: (1, E)."""
        generator = torch.Generator().manual_seed(seed)
        pixels = np.asarray(self.run(embedding, generator=generator))[0]
        return (pixels * 255).round().astype(np.uint8)
