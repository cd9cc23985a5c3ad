"""Two or more processes that train one model: gradients are averaged after every step. One process alone is a team of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

SHARE_EVERY = 100  # steps between copies of the leader's weights to all


class Team:
    """rank 0 leads: it alone saves, logs, evaluates and exports."""

    def __init__(self, rank: int = 0, size: int = 1, port: int = 29511) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size, timeout=timedelta(hours=1))

    @property
    def leads(self) -> bool:
        """Whether this process saves and exports."""
        return self.rank == 0

    def average(self, parameters: Sequence[nn.Parameter], factor: float, going: bool) -> tuple[float, bool]:
        """Average all gradients in place. Returns the mean of `factor` and whether every member is still going."""
        if self.size == 1:
            return factor, going
        grads = [item.grad if item.grad is not None else torch.zeros_like(item) for item in parameters]
        flat = torch.cat([*(grad.reshape(-1) for grad in grads), torch.tensor([factor, float(going)])])
        dist.all_reduce(flat)
        flat /= self.size
        for item, part in zip(parameters, torch.split(flat[:-2], [grad.numel() for grad in grads]), strict=True):
            item.grad = part.view_as(item)
        return float(flat[-2]), float(flat[-1]) > 0.999

    def share(self, steps: int, tensors: Sequence[Tensor]) -> None:
        """Now and then, give all members the leader's weights: embeddings may have been started at different steps."""
        if steps % SHARE_EVERY == 0:
            self.copy(tensors)

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Give all members the leader's tensors, in place."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor.data, 0)
