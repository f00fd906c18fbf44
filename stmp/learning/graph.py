"""A training step's draws, forward and backward pass as CUDA graphs.

The networks are small: on a GPU the host needs longer to launch their kernels, some thousands a step, than the device
to run them. A graph is launched as one. Shapes depend on nothing but the view, so there is one graph for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from stmp.data.episodes import Plan

Result = TypeVar("Result")

WARM_UP = 3
"""Runs before a capture, in which libraries choose their algorithms and allocate their workspaces."""


@dataclass(frozen=True)
class Captured(Generic[Result]):
    """A graph, the plan that it reads and the result that it writes, both at fixed places in the device's memory."""

    graph: torch.cuda.CUDAGraph
    plan: Plan
    result: Result


class Graphed(Generic[Result]):
    """Carries out plans by replaying what was captured at the first plan of a view.

    Parameters
    ----------
    learn : callable
        Carries out a plan and adds the gradient to the parameters', without the host waiting for the device.
    parameters : sequence of nn.Parameter
        All that it gives a gradient to; each replay puts its own in place of the last one's.
    """

    def __init__(self, learn: Callable[[Plan], Result], parameters: Sequence[nn.Parameter]) -> None:
        self.learn, self.parameters = learn, list(parameters)
        self.captured: dict[str, Captured[Result]] = {}
        self.pool = torch.cuda.graph_pool_handle()  # graphs that never run side by side share their memory

    def __call__(self, plan: Plan) -> Result:
        """The result of a plan; it holds until the next."""
        if plan.view not in self.captured:
            self.captured[plan.view] = self._capture(plan.to(self.parameters[0].device))
        captured = self.captured[plan.view]
        for name, numbers in captured.plan.tensors().items():
            numbers.copy_(plan.tensors()[name])
        captured.graph.replay()
        return captured.result

    def _capture(self, plan: Plan) -> Captured[Result]:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.learn(plan)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            for parameter in self.parameters:
                assert parameter.grad is not None
                parameter.grad.zero_()
            result = self.learn(plan)
        return Captured(graph, plan, result)
