"""Stable unCLIP (diffusers' stock pipeline): an image embedding becomes a picture.

The official settings: embedding from the picture codes, empty prompt, guidance 10, 20 steps, noise level 0. Level 0
still mixes a little noise into the embedding, drawn from the generator, so a seed is needed for repeatable pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from anygpt_demo.checkpoints import assemble, refuse_misfit, shapes_of
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.quantize import hush

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import StableUnCLIPImg2ImgPipeline

STEPS = 20
GUIDANCE = 10.0
PARTS = ("unet", "vae", "image_normalizer")  # the networks that stay in memory
WEIGHTS = "diffusion_pytorch_model.safetensors"
EMPTY_PROMPT = "empty_prompt.safetensors"  # a converted folder holds the text encoder's one answer instead of the text encoder
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def modern(key: str) -> str:
    """A key of a diffusers file under today's name of the attention layers."""
    if ".attentions." in key:
        for old, new in OLD_ATTENTION.items():
            key = key.replace(old, new)
    return key


def build_part(part: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """One of PARTS from its config.json, untrained."""
    hush()
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "image_normalizer": StableUnCLIPImageNormalizer}
    model: torch.nn.Module = kinds[part].from_config(dict(config))
    return model


def part_shapes(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of one of PARTS, from its config.json."""
    return shapes_of(lambda: build_part(part, config))


def check(folder: Path) -> None:
    """Raise BadCheckpoint naming the first tensor of a converted folder that is missing, unknown or of another shape."""
    from safetensors import SafetensorError, safe_open

    for part in PARTS:
        try:
            with safe_open(folder / part / WEIGHTS, framework="pt") as file:
                slices = {modern(key): file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                found = {key: tuple(item.get_shape()) for key, item in slices.items()}
                odd = [key for key, item in slices.items() if item.get_dtype() not in ("F32", "F16", "BF16")]
            own = part_shapes(part, json.loads((folder / part / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise BadCheckpoint(f"unclip: {part}/{WEIGHTS} cannot be read.", "It is damaged.", "Fetch it again.") from error
        refuse_misfit(f"unclip {part}", own, found)
        if odd:
            raise BadCheckpoint(f"unclip {part}: the tensor {odd[0]} is not made of fractions.", "It is damaged.", "Fetch it again.")


def _components(folder: Path, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the pipeline of a converted folder is made of. Weights go straight from the file into the networks."""
    import diffusers
    from safetensors.torch import load_file

    check(folder)
    found: dict[str, Any] = dict.fromkeys(("feature_extractor", "image_encoder", "tokenizer", "text_encoder"))
    for part in PARTS:
        config = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / part / WEIGHTS)
        state = {modern(key): tensor.to(device=device, dtype=dtype) for key, tensor in tensors.items()}
        found[part] = assemble(lambda part=part, config=config: build_part(part, config), state, f"unclip {part}")  # type: ignore[misc]
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    for part in ("scheduler", "image_noising_scheduler"):
        config = json.loads((folder / part / "scheduler_config.json").read_text(encoding="utf-8"))
        found[part] = getattr(diffusers, index[part][1]).from_config(config)
    return found


def cached_prompt(folder: Path) -> Tensor | None:
    """The embedding of the empty prompt, float (1, tokens, width), if the folder holds it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / EMPTY_PROMPT
    if not path.is_file():
        return None
    try:
        (prompt,) = load_file(path).values()
    except (OSError, ValueError, SafetensorError) as error:
        raise BadCheckpoint(f"unclip: {EMPTY_PROMPT} cannot be read.", "It is damaged.", "Fetch it again.") from error
    if prompt.ndim != 3 or len(prompt) != 1:
        raise BadCheckpoint(f"unclip: {EMPTY_PROMPT} is {tuple(prompt.shape)}.", "It is not one embedded prompt.", "Fetch it again.")
    return prompt


class _Absent(torch.nn.Module):
    """Stands for the picture encoder, which the pipeline asks for nothing but its device and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.one.device

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        return self.one.dtype


@dataclass(frozen=True)
class UnclipDecoder:
    """The pipeline with the empty prompt already encoded. E: width of the image embedding."""

    pipeline: StableUnCLIPImg2ImgPipeline
    prompt: Tensor  # (1, tokens, width): the empty prompt, for both halves of the guidance

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> UnclipDecoder:
        """Read a diffusers folder; half precision on a GPU. The picture encoder is never loaded, the text encoder never kept.

        Raises BadCheckpoint if a converted folder does not fit.
        """
        hush()
        from transformers.utils.logging import set_verbosity_error

        set_verbosity_error()  # of parts that are not used, and of what the next import misses
        from diffusers import StableUnCLIPImg2ImgPipeline
        from diffusers.utils.logging import disable_progress_bar

        disable_progress_bar()
        dtype = torch.float32 if device == "cpu" else torch.float16
        found = cached_prompt(folder)
        if found is not None:
            pipeline = StableUnCLIPImg2ImgPipeline(**_components(folder, device, dtype))
        else:
            absent: dict[str, None] = {"image_encoder": None, "feature_extractor": None}
            pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(str(folder), dtype=dtype, local_files_only=True, **absent).to(device)
            found, _ = pipeline.encode_prompt("", torch.device(device), 1, False)
            pipeline.text_encoder = None
        pipeline.set_progress_bar_config(disable=True)
        pipeline.image_encoder = _Absent().to(device=device, dtype=dtype)
        return cls(pipeline, found.detach().to(device=device, dtype=dtype))

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

    def picture(
        self, embedding: Tensor, seed: int, steps: int | None = None, guidance: float | None = None, noise_level: int | None = None
    ) -> np.ndarray:
        """uint8 (H, W, 3), with the official settings where none are given. embedding: (1, E). Equal arguments give an equal picture."""
        generator = torch.Generator().manual_seed(seed)
        chosen = {"steps": steps or STEPS, "guidance": GUIDANCE if guidance is None else guidance, "noise_level": noise_level or 0}
        pixels = np.asarray(self.run(embedding, generator=generator, **chosen))[0]
        return (pixels * 255).round().astype(np.uint8)
