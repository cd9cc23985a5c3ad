"""Pictures: 32 causal codes each, in reading order of meaning rather than of place (SEED tokenizer)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from anygpt_demo.codecs.base import Rendering
from anygpt_demo.media import Picture
from anygpt_demo.modality import Modality, Sampling

if TYPE_CHECKING:
    import torch

    from anygpt_demo.checkpoints import Family
    from anygpt_demo.media import Voice
    from anygpt_demo.models.enhancer import Enhancer
    from anygpt_demo.models.flow import FlowDecoder
    from anygpt_demo.models.seed import SeedTokenizer
    from anygpt_demo.models.unclip import UnclipDecoder

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
    anything="Draw a picture.",
)
SIDE = 256  # pixels of a decoded picture of the small family


def _rgb(pixels: torch.Tensor) -> np.ndarray:
    """Float (3, h, w) in [-1, 1] -> uint8 (h, w, 3)."""
    found: np.ndarray = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return found


def _picture(pixels: torch.Tensor) -> Picture:
    """Float (3, h, w) in [-1, 1] -> a Picture of SIDE x SIDE pixels."""
    from PIL import Image

    rgb = _rgb(pixels)
    if rgb.shape[0] != SIDE:
        rgb = np.asarray(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return Picture(rgb)


@dataclass(frozen=True)
class ImageCodec:
    """SEED tokenizer, and a decoder: the small family's flow network, or Stable unCLIP where the family has it.

    The small family may have an enhancer, too, which doubles the side of what its decoder drew.
    """

    SPLITS: ClassVar[bool] = True  # load() can leave one direction out
    tokenizer: SeedTokenizer
    decoder: FlowDecoder | UnclipDecoder | None
    modality: Modality = MODALITY
    device: str = "cpu"
    rendering: Rendering = Rendering()
    enhancer: Enhancer | None = None

    @classmethod
    def load(cls, family: Family, device: str = "cpu", purpose: str = "both") -> ImageCodec:
        """Load the tokenizer and whichever decoder the family has; the official one runs in half precision on a GPU.

        purpose: "encode" leaves the decoder out, "decode" the reading half of the tokenizer. Raises BadCheckpoint.
        """
        import torch

        from anygpt_demo.checkpoints import assemble, load_strict
        from anygpt_demo.models.enhancer import Enhancer, EnhancerConfig
        from anygpt_demo.models.flow import FlowConfig, FlowDecoder
        from anygpt_demo.models.seed import SeedConfig, SeedTokenizer
        from anygpt_demo.models.unclip import UnclipDecoder

        part = family.component("image_tokenizer")
        config = SeedConfig.from_json(part.config)
        dtype = torch.float16 if family.has("unclip") and device != "cpu" else torch.float32

        def unread(key: str) -> bool:
            return purpose == "decode" and key.startswith(("visual_encoder.", "Qformer."))

        state = part.state(device, dtype, lambda key: not unread(key))
        tokenizer = assemble(lambda: SeedTokenizer(config), state, "image_tokenizer", unread)
        if purpose == "decode":
            del tokenizer.visual_encoder, tokenizer.Qformer
        tokenizer.to(device)
        decoder: FlowDecoder | UnclipDecoder | None = None
        enhancer: Enhancer | None = None
        if purpose == "encode":
            pass
        elif family.has("unclip"):
            component = family.component("unclip")
            component.verify()
            decoder = UnclipDecoder.load(component.folder, device)
        elif family.has("image_decoder"):
            component = family.component("image_decoder")
            decoder = FlowDecoder(FlowConfig.from_json(component.config))
            load_strict(decoder, component.state(device), "image_decoder")
            decoder.requires_grad_(False).to(device)
            if family.has("image_enhancer"):
                component = family.component("image_enhancer")
                enhancer = Enhancer(EnhancerConfig.from_json(component.config))
                load_strict(enhancer, component.state(device), "image_enhancer")
                enhancer.requires_grad_(False).to(device, memory_format=torch.channels_last)
        return cls(tokenizer, decoder, replace(MODALITY, codebook=config.codebook), device, enhancer=enhancer)

    def encode(self, media: Picture) -> np.ndarray:
        """A picture of any size -> codes int64 (32, 1). It is squashed to a square, as the official code does."""
        from anygpt_demo.models.seed import preprocess

        pixels = preprocess(media.rgb, self.tokenizer.config.image_size)[None].to(self.device, self.tokenizer.query_tokens.dtype)
        return self.tokenizer.encode(pixels)[0, :, None].cpu().numpy()

    def _condition(self, codes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes (32, 1) -> vectors (1, 32, V) and embedding (1, E). Raises ValueError for a wrong number or range."""
        import torch

        ids = np.asarray(codes, np.int64).reshape(1, -1)
        if ids.shape[1] != self.modality.frames.start or ids.min() < 0 or ids.max() >= self.modality.codebook:
            raise ValueError(f"a picture is {self.modality.frames.start} codes below {self.modality.codebook}")
        with torch.no_grad():
            return conditioning(self.tokenizer, torch.from_numpy(ids).to(self.device))

    def tuned(self, rendering: Rendering) -> ImageCodec:
        """The same networks with other steps, guidance and noise level, or enhanced; the flow decoder has steps only."""
        return replace(self, rendering=rendering)

    def previews(self, codes: np.ndarray, seed: int = 0) -> Iterator[Picture]:
        """The picture as it forms, one per step; the last one is the result. Only the flow decoder has more than one.

        Where it is to be enhanced, one more follows, of twice the side.
        """
        import torch

        from anygpt_demo.errors import BadCheckpoint
        from anygpt_demo.models.flow import FlowDecoder

        vectors, embedding = self._condition(codes)
        if self.decoder is None:
            raise BadCheckpoint("This family cannot draw.", "It has no picture decoder.", "Fetch or train one.")
        if isinstance(self.decoder, FlowDecoder):
            with torch.inference_mode():
                noise = self.decoder.noise(seed).to(self.device)
                for pixels in self.decoder.previews(vectors, embedding, noise, self.rendering.picture_steps):
                    picture = _picture(pixels[0])
                    yield picture
            if self.rendering.enhance and self.enhancer is not None:
                yield self.enhanced(picture)
        else:
            wish = self.rendering
            yield Picture(self.decoder.picture(embedding, seed, wish.picture_steps, wish.picture_guidance, wish.picture_noise))

    def enhanced(self, picture: Picture) -> Picture:
        """A picture of even sides, uint8 (h, w, 3) -> (2h, 2w, 3). Raises BadCheckpoint if the family has no enhancer."""
        import torch

        from anygpt_demo.errors import BadCheckpoint

        if self.enhancer is None:
            raise BadCheckpoint("This family cannot enhance pictures.", "It has no picture enhancer.", "Fetch or train one.")
        with torch.inference_mode():
            pixels = torch.from_numpy(picture.rgb.copy()).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
            return Picture(_rgb(self.enhancer(pixels.contiguous(memory_format=torch.channels_last))[0]))

    def decode(self, codes: np.ndarray, *, voice: Voice | None = None, seed: int = 0) -> Picture:
        """Codes int64 (32, 1) -> a picture: 256 px of the small family, 512 px enhanced, 768 px of unCLIP.

        The seed chooses the noise.
        """
        *_, last = self.previews(codes, seed)
        return last

    def first(self, codes: np.ndarray, count: int, seed: int = 0) -> Picture:
        """The picture of the first `count` of its codes; the others are those of an empty grey picture."""
        grey = self.encode(Picture(np.full((SIDE, SIDE, 3), 128, np.uint8)))
        return self.decode(np.concatenate([codes[:count], grey[count:]]), seed=seed)

    def stream(self, codes: Iterable[np.ndarray], *, voice: Voice | None = None, seed: int = 0) -> Iterator[Picture]:
        """One picture, when all of its codes have come."""
        frames = [np.asarray(frame).reshape(-1) for frame in codes]
        if frames:
            yield self.decode(np.stack(frames), seed=seed)


def conditioning(tokenizer: SeedTokenizer, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a decoder is conditioned on: code vectors beside re-expanded vectors (B, 32, V), and the embedding (B, E).

    ids: int64 (B, 32).
    """
    import torch

    restored = tokenizer.restore(ids)
    return torch.cat([tokenizer.codes_to_vectors(ids), restored], 2), tokenizer.project(restored)
