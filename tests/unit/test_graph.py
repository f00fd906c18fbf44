"""Steps on a GPU: the graph gives the weights that launching kernel by kernel gives, and those of the processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from stmp.learning.meta import MetaTrainer, set_precision
from tests.training import furthest, make_trainer, small_config, small_panel, weights


def on_host(trainer: MetaTrainer) -> dict[str, torch.Tensor]:
    """Weights in the host's memory."""
    return {name: values.cpu() for name, values in weights(trainer).items()}


SETTINGS = [(), ("train.view_mode=pooled",), ("model.pooling=mean",), ("model.beta_kl=0.1",), ("model.members=2",)]
SERIES = [("sales",), ("a", "b")]


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_shape_of_a_step_hangs_on_what_the_data_hold(settings: tuple[str, ...]) -> None:
    """A graph could not be captured then. Tensors without values give an error where one would have to be read."""
    trainer = make_trainer(small_panel(), small_config(*settings))
    assert trainer.config.model.last_year, "all that a step reads is there"
    for step in range(2):  # one of each view
        plan = trainer.sampler.plan(step)
        assert plan is not None
        with FakeTensorMode(allow_non_fake_inputs=True):
            trainer._learn(plan)


class NoConstants(TorchDispatchMode):
    """Lists of the host that become a tensor are an error; single numbers travel with the kernel."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten.lift_fresh.default:
            assert args[0].ndim == 0, "a step copies from the host's memory"
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("series", SERIES, ids=len)
def test_a_step_copies_nothing_from_the_host(settings: tuple[str, ...], series: tuple[str, ...]) -> None:
    """Lists as indices are such copies, and a graph could not be captured with them."""
    trainer = make_trainer(small_panel(series=series), small_config(*settings))
    assert trainer.history.group is not None, "all that a step reads is there"
    for step in range(2):
        plan = trainer.sampler.plan(step)
        assert plan is not None
        with NoConstants():
            trainer._learn(plan)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("series", SERIES, ids=len)
def test_a_graph_learns_as_launching_kernel_by_kernel_does(settings: tuple[str, ...], series: tuple[str, ...]) -> None:
    set_precision("fp32")
    config = small_config(*settings)
    panel = small_panel(series=series)
    graphed, eager = (make_trainer(panel.to("cuda"), config) for _ in range(2))
    processor = make_trainer(panel, config)
    assert graphed.graphed is not None and processor.graphed is None
    eager.graphed = None
    for _ in range(6):
        for trainer in (graphed, eager, processor):
            trainer.train_step()
    assert furthest(on_host(graphed), on_host(eager))[0] < 1e-6
    assert furthest(on_host(graphed), on_host(processor))[0] < 1e-2
