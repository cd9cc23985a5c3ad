"""A discriminator for the decoder of the music codec: it learns to tell what was made from what was played.

A decoder that only has to come near the original hedges: where codes leave a partial or an attack open, it plays the median of all that is
possible, which nobody ever played. Two small convolutional networks look at log-mel pictures of 8 and 32 ms steps, patch by patch (MS-STFT
discriminator of EnCodec, arXiv 2210.13438, section 3.4, on mel bands to be cheap), and each is also shown the codes' vectors (projection
discriminator, arXiv 1802.05637), so a sound must not only be possible but fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from anygpt_demo.train.music_data import RATE_HZ
from anygpt_demo.train.spectra import LogMel

VIEWS = ((1024, 64), (4096, 128))  # window in samples, mel bands
WIDTHS = (16, 32, 64)
RATE = 3e-4
FOOLED, ALIKE = 1.0, 2.0  # weights of the generator's terms
AHEAD = 0.4  # loss below which it waits for the decoder: one that is never wrong teaches little


class Patches(nn.Module):
    """One view: scores of patches of a log-mel picture, given code vectors."""

    def __init__(self, window: int, bands: int, latents: int) -> None:
        super().__init__()
        self.mel = LogMel(RATE_HZ, window, bands)
        sizes = (1, *WIDTHS)
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(a, b, 5, 2, 2)) for a, b in zip(sizes, sizes[1:], strict=False))
        self.score = weight_norm(nn.Conv2d(WIDTHS[-1], 1, 3, 1, 1))
        self.fitting = nn.Linear(latents, WIDTHS[-1])

    def forward(self, wave: Tensor, latent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """wave: (B, n); latent: (B, D, T) of the same time. Returns scores (B, bands', T') and what each layer makes of it."""
        x, found = (self.mel(wave)[:, None] + 4.5) / 2.5, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            found.append(x)
        wanted = self.fitting(F.adaptive_avg_pool1d(latent, x.shape[-1]).transpose(1, 2)).transpose(1, 2)
        return self.score(x)[:, 0] + (x.mean(2) * wanted).sum(1, keepdim=True), found


class Adversary(nn.Module):
    """The discriminator, its optimizer and both sides' losses."""

    def __init__(self, latents: int) -> None:
        """latents: width of the code vectors."""
        super().__init__()
        self.views = nn.ModuleList(Patches(window, bands, latents) for window, bands in VIEWS)
        self.optimizer = torch.optim.AdamW(self.parameters(), RATE, betas=(0.5, 0.9))

    def learn(self, made: Tensor, true: Tensor, latent: Tensor) -> Tensor:
        """One update by the hinge loss, which is returned; none while it is ahead. made, true: (B, n); latent: (B, D, T)."""
        terms = []
        for view in self.views:
            terms += [F.relu(1 - view(true, latent)[0]).mean(), F.relu(1 + view(made.detach(), latent)[0]).mean()]
        loss = torch.stack(terms).sum() / len(terms)
        if float(loss.detach()) > AHEAD:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return loss.detach()

    def judge(self, made: Tensor, true: Tensor, latent: Tensor) -> dict[str, Tensor]:
        """What the decoder has to lower: its sound being told from the original, and looking otherwise inside. Weighted scalars."""
        self.requires_grad_(False)
        fooled, apart = [], []
        for view in self.views:
            score, found = view(made, latent)
            with torch.no_grad():
                wanted = view(true, latent)[1]
            fooled.append(-score.mean())
            apart += [(a - b).abs().mean() / b.abs().mean() for a, b in zip(found, wanted, strict=True)]
        self.requires_grad_(True)
        return {"fooled": FOOLED * torch.stack(fooled).mean(), "alike": ALIKE * torch.stack(apart).mean()}
