"""Training of a residual stack of codebooks: k-means start, moving averages, gentle expiry. Shared by the speech and the music codec.

A codebook is any module with the buffers of EnCodec and SpeechTokenizer: inited (1,), cluster_size (K,), embed (K, D), embed_avg (K, D).

Two defaults of the official code destroy codebooks at small batches and are replaced here: k-means runs on a large buffer of latents with
matmul distances (not on one batch), and a code expires below ~0.1 x frames per batch / K instead of below 2 uses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.models.speechtokenizer import steady


class Book(Protocol):
    """The buffers of one codebook of K codes."""

    inited: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor


@dataclass(frozen=True)
class Quantized:
    """What the stack made of a batch of latents."""

    total: Tensor  # (B, D, T) sum of the levels in use, straight-through gradient
    parts: tuple[Tensor, ...]  # (B, D, T) of each level, straight-through gradient to what that level sees of the latent
    codes: Tensor  # int64 (levels, B, T)
    commitment: Tensor  # scalar: mean squared distance of what each level sees to its code

    @property
    def first(self) -> Tensor:
        """Level 1 alone, (B, D, T)."""
        return self.parts[0]


def nearest(vectors: Tensor, table: Tensor) -> Tensor:
    """Index of the nearest row of table (K, D) for each of vectors (N, D), in slices that stay small in memory."""
    norms = table.pow(2).sum(1)
    return torch.cat([(norms - 2 * part @ table.t()).argmin(1) for part in vectors.split(8192)])


def kmeans(vectors: Tensor, size: int, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Centres (size, D) and member counts (size,) of vectors (N, D); empty clusters restart at random vectors."""
    centres = vectors[torch.randint(len(vectors), (size,))] if len(vectors) < size else vectors[torch.randperm(len(vectors))[:size]]
    counts = torch.ones(size)
    for _ in range(rounds):
        index = nearest(vectors, centres)
        counts = torch.bincount(index, minlength=size).to(vectors.dtype)
        means = torch.zeros_like(centres).index_add_(0, index, vectors) / counts.clamp(min=1)[:, None]
        restart = vectors[torch.randint(len(vectors), (size,))]
        centres = torch.where((counts == 0)[:, None], restart, means)
    return centres, counts


def spanned(table: Tensor) -> Tensor:
    """Orthonormal axes (D, D), those along which the rows of table (K, D) differ most first."""
    return torch.linalg.svd(table - table.mean(0), full_matrices=True).Vh


class Kept:
    """What a round that keeps level 1 holds on to: the old latents, in the subspace that the first codebook spans.

    The differences between a latent's distances to the codes depend on its part within that subspace alone; the rest is free.
    """

    def __init__(self, encoder: nn.Module, table: Tensor, width: int) -> None:
        """encoder: of waves (B, 1, n); it is copied. table: (K, D), the codes in use. width: dimensions that hold nearly all of them."""
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.basis = spanned(table)[:width]

    def free(self, latent: Tensor) -> Tensor:
        """The part of latents (B, D, T) that level 1 does not see."""
        return latent - torch.einsum("kd,kc,bct->bdt", self.basis, self.basis, latent)

    def loss(self, latent: Tensor, heard: Tensor) -> Tensor:
        """Squared distance per frame to the old encoder's latents of the same waves (B, 1, n), within the subspace."""
        with torch.no_grad():
            old = self.encoder(heard)
        return torch.einsum("kd,bdt->bkt", self.basis, latent - old).pow(2).sum(1).mean()


class CodebookStack:
    """Trains the codebooks in place; the modules stay plain inference modules."""

    def __init__(
        self,
        books: Sequence[Any],
        decay: float = 0.99,
        expiry: float = 0.03,
        live: Sequence[int] = (),
        fixed: int = 0,
        stay: float = 0.0,
        views: Sequence[Tensor] = (),
    ) -> None:
        """decay: of the moving averages, per batch. expiry: a code below this average number of uses per batch is moved to live data.

        live: codes in use of the first levels, each a divisor of K; the rest of a table repeats them and is never chosen. All K elsewhere.
        fixed: first levels that are ready and never move. stay: cost of a change of level-1 codes, see speechtokenizer.steady.
        views: (D, D) projections of the first levels: what each sees of the latent; its codes lie in that subspace. All of it elsewhere.
        """
        self.books: list[Book] = list(books)
        self.decay, self.expiry, self.fixed, self.stay = decay, expiry, fixed, stay
        self.live = [*live, *(len(book.embed) for book in self.books[len(live) :])]
        self.views = views

    def _seen(self, residual: Tensor, level: int) -> Tensor:
        return residual @ self.views[level] if level < len(self.views) else residual

    @torch.no_grad()
    def start(self, vectors: Tensor, frames_per_batch: int, rounds: int = 8) -> list[int]:
        """K-means of every level on a buffer of real latents (N, D), N >= 15k for K = 1024. Returns the codes in use per level."""
        residual, used = vectors, []
        for level, (book, live) in enumerate(zip(self.books, self.live, strict=True)):
            if level < self.fixed:
                residual = residual - book.embed[nearest(self._seen(residual, level), book.embed[:live])]
                continue
            seen = self._seen(residual, level)
            centres, counts = kmeans(seen, live, rounds)
            uses = (counts * frames_per_batch / len(vectors)).clamp(min=4 * self.expiry)
            self._set(book, centres, uses)
            used.append(int((counts > 0).sum()))
            residual = residual - centres[nearest(seen, centres)]
        return used

    def _set(self, book: Book, centres: Tensor, uses: Tensor) -> None:
        copies = len(book.embed) // len(centres)
        book.embed.copy_(centres.repeat(copies, 1))
        book.cluster_size.copy_(uses.repeat(copies))
        book.embed_avg.copy_((centres * uses[:, None]).repeat(copies, 1))
        book.inited.fill_(1)

    @torch.no_grad()
    def _learn(self, book: Book, live: int, vectors: Tensor, index: Tensor) -> None:
        """One step of the moving averages, then dead codes jump to random vectors of this batch."""
        table, uses, sums = book.embed[:live], book.cluster_size[:live], book.embed_avg[:live]
        uses.lerp_(torch.bincount(index, minlength=live).to(vectors.dtype), 1 - self.decay)
        sums.lerp_(torch.zeros_like(sums).index_add_(0, index, vectors), 1 - self.decay)
        table.copy_(sums / uses.clamp(min=1e-5)[:, None])
        dead = torch.nonzero(uses < self.expiry)[:, 0]
        if len(dead):
            fresh = vectors[torch.randint(len(vectors), (len(dead),))]
            table[dead] = fresh
            uses[dead] = 4 * self.expiry
            sums[dead] = fresh * (4 * self.expiry)
        if live < len(book.embed):
            book.embed[live:] = table.repeat(len(book.embed) // live - 1, 1)

    def __call__(self, latent: Tensor, levels: int | None = None, learn: bool = True) -> Quantized:
        """Quantize latent (B, D, T) with the first `levels` codebooks (all by default); `learn` also moves the codebooks."""
        batch, width, frames = latent.shape
        flat = latent.transpose(1, 2).reshape(-1, width)
        total, codes, parts = torch.zeros_like(flat), [], []
        commitment = flat.new_zeros(())
        for level, (book, live) in enumerate(zip(self.books[:levels], self.live, strict=False)):
            seen = self._seen(flat - total, level)
            vectors = seen.detach()
            if self.stay and level == 0:
                rows = torch.cdist(vectors, book.embed[:live]).square().view(batch, frames, live).numpy()
                index = torch.from_numpy(np.concatenate([steady(row, self.stay) for row in rows]))
            else:
                index = nearest(vectors, book.embed[:live])
            part = F.embedding(index, book.embed)
            commitment = commitment + F.mse_loss(seen, part)
            if learn and level >= self.fixed:
                self._learn(book, live, vectors, index)
            total = total + part
            codes.append(index.view(batch, frames))
            parts.append(seen + (part - seen).detach())
        total = flat + (total - flat).detach()
        whole, *each = (value.view(batch, frames, width).transpose(1, 2) for value in (total, *parts))
        return Quantized(whole, tuple(each), torch.stack(codes), commitment / len(parts))


@torch.no_grad()
def lsuv(module: nn.Module, x: Tensor, kinds: tuple[type, ...], last: float = 1.0) -> Tensor:
    """Scale each convolution, in order of use, so that its output signal has unit deviation (Mishkin & Matas 2016, arXiv 1511.06422).

    Deep narrow SEANets with default weights hide the signal under constant offsets: biases become 0 and the deviation is taken around each
    channel's mean. kinds: the convolution classes. last: deviation of the final one. Returns module(x) afterwards.
    """
    convolutions = [item for item in module.modules() if isinstance(item, kinds)]
    for item in convolutions:
        bias = getattr(item, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()
    seen: list[Tensor] = []
    for number, item in enumerate(convolutions):
        seen.clear()
        handle = item.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        module(x)
        handle.remove()
        deviation = (seen[0] - seen[0].mean((0, 2), keepdim=True)).std().clamp(min=1e-6)
        _length(item).mul_((last if number == len(convolutions) - 1 else 1.0) / deviation)
    result: Tensor = module(x)
    return result


def _length(convolution: Any) -> Tensor:
    """The tensor that scales a convolution's weight, with either spelling of weight norm or none."""
    if hasattr(convolution, "weight_g"):
        return cast(Tensor, convolution.weight_g)
    if hasattr(convolution, "parametrizations"):
        return cast(Tensor, convolution.parametrizations.weight.original0)
    return cast(Tensor, convolution.weight)
