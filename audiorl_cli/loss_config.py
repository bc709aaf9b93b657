"""The section [loss] of a run's config: which paper's loss, and its numbers."""

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, cast

from audiorl_cli.errors import check as _check

Kind = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "gfpo"]
KlEstimator = Literal["k1", "k2", "k3", "unbiased"]


class Defaults(NamedTuple):
    """The numbers of a kind of loss where a config gives none. `epsilon_high` None: as `epsilon`."""

    beta: float
    epsilon: float
    epsilon_high: float | None


# DeepSeekMath (arXiv:2402.03300, section 4.2) names 0.04 for the KL, and no clip: 0.2 is PPO's (arXiv:1707.06347).
_GRPO: Final = Defaults(0.04, 0.2, None)
DEFAULTS: Final[dict[Kind, Defaults]] = {
    "grpo": _GRPO,
    # The authors' run.sh (github.com/changyi7231/BNPO, recipe/bnpo): clip 0.2 and 0.28, no KL.
    "bnpo": Defaults(0.0, 0.2, 0.28),
    # arXiv:2503.20783 and its code (github.com/sail-sg/understand-r1-zero): beta 0, PPO's clip.
    "dr_grpo": Defaults(0.0, 0.2, None),
    # arXiv:2503.14476, sections 2.3 and 4.1.
    "dapo": Defaults(0.0, 0.2, 0.28),
    # arXiv:2506.13585, section 3.1: no KL, no lower bound, and an upper one that it does not tell. The upper one here
    # makes the largest weight 5, as in ScaleRL (arXiv:2510.13786) and TRL's settings for it.
    "cispo": Defaults(0.0, 1.0, 4.0),
    # arXiv:2507.18071, section 5.1. The paper leaves the KL out of its equations; TRL's and verl's settings have none.
    "gspo": Defaults(0.0, 3e-4, 4e-4),
    # arXiv:2508.09726 filters the groups of GRPO, and the clip and KL here are GRPO's.
    "gfpo": _GRPO,
}

# A config that names no number has its kind's: `__post_init__` puts it in this one's place.
_OF_KIND: Final = cast(float, None)


@dataclass(frozen=True)
class LossConfig:
    """What is made of the rewards; `kind` names the paper's advantages, clip and mean (rl/loss.py).

    `beta`, `epsilon` and `epsilon_high` are by default the kind's own (`DEFAULTS`, with sources); a config that was
    saved has them all.
    `beta`: weight of the KL to the reference model; with 0 there is none.
    `kl_estimator`: how the KL to the reference is estimated from the sampled tokens (rl/loss.py). It decides whose
    gradient is taken, in expectation; on policy means until the first update of a rollout:
    - k3 (GRPO): on policy that of KL(reference || policy), though its value estimates KL(policy || reference); off
      policy of neither.
    - k2: on policy that of KL(policy || reference) of the next token; off policy biased.
    - unbiased (DeepSeek-V3.2): that of KL(policy || reference) of the next token, on and off policy, at more variance.
    - k1: that of KL(policy || reference) of whole completions, later tokens included, at more variance. It is
      subtracted from the reward, not differentiated; what a kind divides rewards by, it divides this by too.
    `epsilon`: how far below 1 the ratio of new to old policy may go before it is clipped; from 1 on, it never is.
    `epsilon_high`: how far above 1. With one update a rollout the ratio is 1, and nothing is clipped.
    `delta`: an upper bound of that ratio for negative advantages too (two-sided clip); 0 means none.
    `iterations`: updates a rollout.
    `gfpo_keep`: how many completions of a group kind gfpo learns from, the best by `gfpo_metric`: the shortest
    (length) or those of most reward a token (efficiency; for rewards that cannot be negative).
    `overlong_buffer`: tokens below `rollout.max_new_tokens` over which the reward falls by up to 1; 0 means off.
    `mask_truncated`: completions cut at `rollout.max_new_tokens` are left out of the loss and the KL (DAPO's overlong
    filtering, arXiv:2503.14476, section 3.4). They count in the advantages of their group, as in TRL.
    `sampler_correction`: whether terms are weighed by policy / sampler, token by token or by the product over a
    completion (rl/correction.py); `sampler_cap`: the most that such a weight may be; `sampler_outliers`: whether one
    above it becomes the cap (truncate) or 0 (mask).
    """

    kind: Kind = "grpo"
    beta: float = _OF_KIND
    kl_estimator: KlEstimator = "k3"
    epsilon: float = _OF_KIND
    epsilon_high: float = _OF_KIND
    delta: float = 0.0
    iterations: int = 1
    gfpo_keep: int = 0
    gfpo_metric: Literal["length", "efficiency"] = "length"
    overlong_buffer: int = 0
    mask_truncated: bool = False
    sampler_correction: Literal["none", "token", "sequence"] = "none"
    sampler_cap: float = 2.0
    sampler_outliers: Literal["truncate", "mask"] = "truncate"

    def __post_init__(self) -> None:
        own = DEFAULTS[self.kind]
        for name, value in (("beta", own.beta), ("epsilon", own.epsilon)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.epsilon_high is None:
            object.__setattr__(self, "epsilon_high", self.epsilon if own.epsilon_high is None else own.epsilon_high)
        _check("loss.beta", self.beta >= 0, ">= 0", self.beta)
        estimated = self.beta > 0 or self.kl_estimator == "k3"
        _check("loss.kl_estimator", estimated, "loss.beta > 0 with it, or to be left out", self.kl_estimator)
        _check("loss.epsilon", self.epsilon > 0, "> 0", self.epsilon)
        _check("loss.epsilon_high", self.epsilon_high > 0, "> 0, or to be left out", self.epsilon_high)
        capped = self.delta > 1 + self.epsilon_high and self.kind not in ("cispo", "gspo")
        _check(
            "loss.delta",
            capped or self.delta == 0,
            f"> {1 + self.epsilon_high:g} (the clip) for kinds that clip tokens, or 0 for none",
            self.delta,
        )
        _check("loss.iterations", self.iterations >= 1, ">= 1", self.iterations)
        if self.kind == "gfpo":
            _check("loss.gfpo_keep", self.gfpo_keep >= 2, ">= 2 (one alone has no advantage)", self.gfpo_keep)
        else:
            _check("loss.gfpo_keep", self.gfpo_keep == 0, f"0 for kind {self.kind}", self.gfpo_keep)
            _check("loss.gfpo_metric", self.gfpo_metric == "length", f"none for kind {self.kind}", self.gfpo_metric)
        _check("loss.overlong_buffer", self.overlong_buffer >= 0, ">= 0", self.overlong_buffer)
        _check("loss.sampler_cap", 1 <= self.sampler_cap < math.inf, "a finite number >= 1", self.sampler_cap)
        if self.sampler_correction == "none":
            for name, unset in (("sampler_cap", 2.0), ("sampler_outliers", "truncate")):
                value = getattr(self, name)
                _check(f"loss.{name}", value == unset, f'{unset} with loss.sampler_correction = "none"', value)
