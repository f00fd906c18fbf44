"""Adapting a trained model to other data: L2-SP (Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer
Learning with Convolutional Networks").

    min over theta of  L(theta; D_t) + lambda * ||theta_shared - theta_source||^2

What the target has of its source (`stmp.learning.graft`) is pulled towards the source's values, by a lambda for each
group of parameters; what is new is shrunk by plain weight decay. Lambda 0 is plain fine-tuning, infinity the frozen
source.

The penalty is a proximal step in AdamW's own metric (Yun, Lozano & Yang 2021, "Adaptive Proximal Gradient Methods for
Structured Neural Networks"), not a part of the loss: its fixed point is the minimum of the sum, and no lambda is too
large for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stmp.config import Config, TransferConfig
from stmp.data.calendar import period_days
from stmp.nets.names import GROUPS, group_of

if TYPE_CHECKING:
    from stmp.forecaster import Forecaster

FINE_TUNING: dict[str, Any] = {
    "max_steps": 400,
    "warmup": 20,
    "ema": 0.98,
    "log_every": 25,
    "validate_every": 25,
    "checkpoint_every": 50,
    "patience": 8,
}
"""Where learning from little data differs from the training of a source: fewer steps, looked at more often.

The rate stays that of the source: what is new has as far to go as in any training, and lambda holds the rest.
"""


class SourcePenalty:
    """Holds parameters to where they started, while an optimiser moves them.

    Parameters
    ----------
    model : nn.Module
        Its parameters are at their start, and are trained where a lambda lets them.
    shared : mapping of name to Tensor bool
        Which elements of each parameter are pulled back; the others are new.
    strengths : mapping of name to float
        Lambda of each parameter, from 0 to infinity.
    weight_decay : float
        Decoupled decay of what is new, where it is no bias.
    """

    def __init__(
        self, model: nn.Module, shared: Mapping[str, Tensor], strengths: Mapping[str, float], weight_decay: float
    ) -> None:
        self.weight_decay = weight_decay
        self.start: dict[nn.Parameter, Tensor] = {}
        self.shared: dict[nn.Parameter, Tensor] = {}
        self.strength: dict[nn.Parameter, float] = {}
        self.partly: set[nn.Parameter] = set()
        for name, parameter in model.named_parameters():
            mask = shared[name].to(parameter.device)
            if mask.all() and strengths[name] == float("inf"):
                parameter.requires_grad_(False)
                continue
            self.start[parameter] = parameter.detach().clone()
            self.shared[parameter] = mask
            self.strength[parameter] = strengths[name]
            if parameter.ndim > 1 and mask.any() and not mask.all():
                self.partly.add(parameter)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: those with shared elements are not decayed by the optimiser itself."""
        new = [p for p, mask in self.shared.items() if not mask.any() and p.ndim > 1]
        others = [p for p, mask in self.shared.items() if mask.any() or p.ndim <= 1]
        return [{"params": new, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]

    def hold_gradients(self) -> None:
        """Clear the gradients of frozen elements, so that they count in no norm."""
        for parameter, mask in self.shared.items():
            if self.strength[parameter] == float("inf") and parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.AdamW) -> None:
        """One step of the optimiser on the loss, and the proximal step of the penalty after it."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._decay_new(parameter, group["lr"])
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._pull(parameter, optimizer.state[parameter], group)

    def _decay_new(self, parameter: nn.Parameter, rate: float) -> None:
        """Decay the new elements of a parameter that has shared ones too, before the step as AdamW does."""
        mask = self.shared[parameter]
        if parameter in self.partly:
            parameter.mul_(torch.where(mask, 1.0, 1.0 - rate * self.weight_decay))

    def _pull(self, parameter: nn.Parameter, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> None:
        """argmin over theta of lambda * ||theta - start||^2 + ||theta - parameter||^2_D / (2 * rate).

        D is the diagonal that AdamW divides its step by, so that each element has a mean of its own.
        """
        strength, mask = self.strength[parameter], self.shared[parameter]
        if strength == 0.0:
            return
        start = self.start[parameter]
        if strength == float("inf"):
            parameter.copy_(torch.where(mask, start, parameter))
            return
        bias = 1.0 - group["betas"][1] ** state["step"]
        metric = (state["exp_avg_sq"] / bias).sqrt() + group["eps"]
        pull = 2.0 * group["lr"] * strength
        parameter.copy_(torch.where(mask, torch.lerp(parameter, start, pull / (metric + pull)), parameter))


def adaptation_config(
    source: Forecaster, frequency: str, settings: Sequence[str] = (), *, from_scratch: bool = False
) -> Config:
    """The configuration that adapts a source: its network, and fine-tuning in place of training.

    Parameters
    ----------
    source : Forecaster
    frequency : str
        Of the target.
    settings : sequence of ``section.key=value``
        Come before all that is decided here; ``transfer.reset_periods=true`` begins anew what counts in periods.
    from_scratch : bool
        The configuration of the rival that learns from the target alone: as many steps as the source may have had.

    Raises
    ------
    ConfigError
        If a setting cannot be used.
    """
    values = source.config.model_dump(exclude={"transfer"})
    steps = {"max_steps": source.config.train.max_steps} if from_scratch else {}
    values["train"] |= FINE_TUNING | steps
    # A target has few regions, and each is wanted.
    values["validation"] = {"regions": 0.0, "periods": None}
    if period_days(frequency) != period_days(source.schema.frequency):
        counted = ["horizon", "context", "level_window", "skip_periods", "turn_of_month"]
        counted += ["trend_periods"] if values["model"]["trend_periods"] else []  # one that has none is to have none
        values["model"] |= dict.fromkeys(counted)
    return Config.from_mapping(values, settings)


def strengths_of(names: Sequence[str], transfer: TransferConfig) -> dict[str, float]:
    """Lambda of each parameter, by its group."""
    by_group = {group: float(getattr(transfer, f"lambda_{group}")) for group in GROUPS}
    return {name: by_group[group_of(name)] for name in names}
