"""Picture enhancement of the small family: 256 px -> 512 px, by a residual network with sub-pixel convolutions.

    picture -> folded by 2 (pixel-unshuffle) -> 3x3 conv -> residual blocks -> 3x3 conv -> unfolded by 4 (pixel-shuffle)
            -> enlarged bilinearly ------------------------------------------------------> + -> picture of twice the side

The blocks are those of EDSR (Lim et al. 2017, arXiv 1707.02921: no normalisation), the enlargement is that of ESPCN (Shi et al.
2016, arXiv 1609.05158). The family's decoder draws 128 px, so folding its 256 px by 2 loses nothing and leaves a quarter of the
work.

Dimension names: B batch, C channels of the blocks, H, W height and width of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 2  # sides of the result over those of the input


@dataclass(frozen=True)
class EnhancerConfig:
    """Sizes of the enhancer."""

    width: int = 48  # C
    blocks: int = 6
    fold: int = 2  # pixel-unshuffle of the input

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> EnhancerConfig:
        """Read a component's config.json; unknown fields are ignored."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return asdict(self)


class Block(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Enhancer(nn.Module):
    """The whole component `image_enhancer`. Untrained, it enlarges bilinearly."""

    def __init__(self, config: EnhancerConfig | None = None) -> None:
        super().__init__()
        self.config = config or EnhancerConfig()
        width, fold = self.config.width, self.config.fold
        self.enter = nn.Conv2d(3 * fold**2, width, 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(self.config.blocks)))
        self.leave = nn.Conv2d(width, 3 * (SCALE * fold) ** 2, 3, 1, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, picture: Tensor) -> Tensor:
        """picture: float (B, 3, H, W) in [-1, 1], H and W multiples of `fold`. Returns (B, 3, 2H, 2W), in about [-1, 1]."""
        fold = self.config.fold
        x = self.enter(F.pixel_unshuffle(picture, fold))
        x = x + self.blocks(x)
        rest = F.pixel_shuffle(self.leave(x), SCALE * fold)
        return F.interpolate(picture, scale_factor=SCALE, mode="bilinear", align_corners=False) + rest
