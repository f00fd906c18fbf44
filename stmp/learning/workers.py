"""What training needs of its fellow workers: a rank, and sums over all of them.

One worker needs no process group; several use torch.distributed, which Ray Train or torchrun has set up.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

TEXT_LENGTH = 2000
"""Bytes of a message that workers share."""


class Workers:
    """The workers of this process group, or this process alone."""

    def __init__(self) -> None:
        self.together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.together else 0
        self.size = dist.get_world_size() if self.together else 1

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Combine a tensor of all workers by ``sum``, ``max`` or ``min``; every worker gets the same result."""
        if self.size == 1:
            return values
        operation = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}[how]
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        shared = values.detach().to(device, copy=True)
        dist.all_reduce(shared, op=operation)
        return shared.to(values.device)

    def disagree(self, number: int) -> bool:
        """Whether a number is not the same on all workers."""
        value = torch.tensor(float(number), dtype=torch.float64)
        return bool(self.reduce(value, "max") != self.reduce(value, "min"))

    def first_text(self, text: str) -> str:
        """The text of the first worker that has one, on every worker; all must call at the same time."""
        if self.size == 1:
            return text
        letters = torch.zeros(self.size, TEXT_LENGTH, dtype=torch.int32)
        own = torch.tensor(list(text.encode()[:TEXT_LENGTH]), dtype=torch.int32)
        letters[self.rank, : len(own)] = own
        for row in self.reduce(letters, "sum"):
            if row.any():
                return bytes(row[row > 0].tolist()).decode(errors="replace")
        return ""

    def reduce_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the workers, in one flat message; a missing one counts as zero."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.size == 1:
            return
        flat = self.reduce(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]), "sum")
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(part.view_as(parameter))
