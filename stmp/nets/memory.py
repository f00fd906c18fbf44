"""What the networks keep of regions' pasts, so that a forecast from there only decodes.

Everything here depends on the model and on the data up to a region's origin, and on nothing that is asked: the
recurrent states, psi of each cell, and the keys and values of the support days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from stmp.data.features import Rows
from stmp.nets.amortization import TaskFeatures
from stmp.nets.extractor import Contexts
from stmp.nets.recall import Past

Index = Tensor | slice


@dataclass(frozen=True)
class Encoded:
    """What one network has made of the pasts of B regions.

    Attributes
    ----------
    contexts : Contexts
        One window a region, which ends on its origin.
    psi : TaskFeatures [B, D, psi], optional
        By day type.
    past : Past, optional
    """

    contexts: Contexts
    psi: TaskFeatures | None
    past: Past | None

    def psi_of(self, day_type: Tensor) -> TaskFeatures | None:
        """psi of the cells that days [B, Q] belong to, [B, Q, psi]."""
        if self.psi is None:
            return None
        batch = torch.arange(len(day_type), device=day_type.device)[:, None]
        return TaskFeatures(self.psi.mu[batch, day_type], self.psi.sigma[batch, day_type])

    def select(self, index: Index) -> Encoded:
        """Some of the regions; a slice copies nothing."""
        past = self.past
        chosen = _map(replace(self, past=None), lambda tensor: tensor[index])
        assert isinstance(chosen, Encoded)
        if past is not None:
            past = past.select(index) if isinstance(index, Tensor) else _map(past, lambda tensor: tensor[index])
        return replace(chosen, past=past)


@dataclass(frozen=True)
class Memory:
    """The pasts of B regions.

    Attributes
    ----------
    rows : Rows
    support : Tensor int64 [B, S]
    support_valid : Tensor bool [B, S]
    encoded : tuple of Encoded
        By each network of an ensemble.
    """

    rows: Rows
    support: Tensor
    support_valid: Tensor
    encoded: tuple[Encoded, ...]

    def __len__(self) -> int:
        """Number of regions B."""
        return len(self.support)

    def of(self, member: int) -> Memory:
        """What one of the networks needs."""
        return replace(self, encoded=self.encoded[member : member + 1])

    def select(self, index: Index) -> Memory:
        """Some of the regions; a slice copies nothing."""
        chosen = _map(replace(self, encoded=()), lambda tensor: tensor[index])
        assert isinstance(chosen, Memory)
        return replace(chosen, encoded=tuple(one.select(index) for one in self.encoded))._numbered()

    def ordered(self, order: Tensor) -> Memory:
        """A copy with its regions in another order."""
        copy = _map(self, lambda tensor: tensor[order])
        assert isinstance(copy, Memory)
        return copy._numbered()

    def window(self, start: int, stop: int) -> Memory:
        """The same pasts with rows of the periods ``start:stop`` alone, counted from there; nothing is copied."""
        return replace(self, rows=self.rows.window(start, stop), support=self.support - start)._with_contexts(
            lambda contexts: replace(contexts, first=contexts.first - start)
        )

    def put(self, index: Tensor, other: Memory) -> None:
        """Take the regions of another memory in place of those at some positions."""
        for mine, theirs in zip(_tensors(self), _tensors(other), strict=True):
            mine[index] = theirs

    @classmethod
    def join(cls, parts: list[Memory]) -> Memory:
        """One memory of several."""
        if len(parts) == 1:
            return parts[0]
        flat = [torch.cat(tensors) for tensors in zip(*(_tensors(part) for part in parts), strict=True)]
        left = iter(flat)
        joined = _map(parts[0], lambda _: next(left))
        assert isinstance(joined, Memory)
        return joined._numbered()

    def _numbered(self) -> Memory:
        """With its windows counted anew, one a region."""
        return self._with_contexts(
            lambda contexts: replace(contexts, row=torch.arange(len(self), device=self.support.device))
        )

    def _with_contexts(self, change: Callable[[Contexts], Contexts]) -> Memory:
        return replace(self, encoded=tuple(replace(one, contexts=change(one.contexts)) for one in self.encoded))


_PARTS = (Rows, Contexts, TaskFeatures, Past, Encoded, Memory)


def _map(value: Any, change: Any) -> Any:
    """A dataclass of tensors, tuples and further dataclasses with each tensor changed; modules stay."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(item, change) for item in value)
    if isinstance(value, _PARTS):
        return type(value)(**{field.name: _map(getattr(value, field.name), change) for field in fields(value)})
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a dataclass, in the order of its fields."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, _PARTS):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
