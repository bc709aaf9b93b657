"""The section [loss] of a run's config: which paper's loss, and its numbers."""

from dataclasses import dataclass
from typing import Literal

from audiorl_cli.errors import check as _check


@dataclass(frozen=True)
class LossConfig:
    """What is made of the rewards; `kind` names the paper's advantages, clip and mean (rl/loss.py).

    `beta`: weight of the KL to the reference model.
    `epsilon`: how far below 1 the ratio of new to old policy may go before it is clipped; from 1 on, it never is.
    `epsilon_high`: how far above 1; 0 means as far as below.
    `delta`: an upper bound of that ratio for negative advantages too (two-sided clip); 0 means none.
    `iterations`: updates a rollout.
    `gfpo_keep`: how many completions of a group kind gfpo learns from, the best by `gfpo_metric`: the shortest
    (length) or those of most reward a token (efficiency).
    `overlong_buffer`: tokens below `rollout.max_new_tokens` over which the reward falls by up to 1; 0 means off.
    """

    kind: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "gfpo"] = "grpo"
    beta: float = 0.04
    epsilon: float = 0.2
    epsilon_high: float = 0.0
    delta: float = 0.0
    iterations: int = 1
    gfpo_keep: int = 0
    gfpo_metric: Literal["length", "efficiency"] = "length"
    overlong_buffer: int = 0

    def __post_init__(self) -> None:
        _check("loss.beta", self.beta >= 0, ">= 0", self.beta)
        _check("loss.epsilon", self.epsilon > 0, "> 0", self.epsilon)
        _check("loss.epsilon_high", self.epsilon_high >= 0, ">= 0", self.epsilon_high)
        capped = self.delta > 1 + self.high and self.kind not in ("cispo", "gspo")
        _check(
            "loss.delta",
            capped or self.delta == 0,
            f"> {1 + self.high:g} (the clip) for kinds that clip tokens, or 0 for none",
            self.delta,
        )
        _check("loss.iterations", self.iterations >= 1, ">= 1", self.iterations)
        if self.kind == "gfpo":
            _check("loss.gfpo_keep", self.gfpo_keep >= 2, ">= 2 (one alone has no advantage)", self.gfpo_keep)
        else:
            _check("loss.gfpo_keep", self.gfpo_keep == 0, f"0 for kind {self.kind}", self.gfpo_keep)
        _check("loss.overlong_buffer", self.overlong_buffer >= 0, ">= 0", self.overlong_buffer)

    @property
    def high(self) -> float:
        """How far above 1 the ratio may go."""
        return self.epsilon_high or self.epsilon
