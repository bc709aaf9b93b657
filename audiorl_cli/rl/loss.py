"""Losses over log-probs, one pure function an equation, and the table of those a config can name; float32.

Log-probs are [completions, tokens], natural logarithms, of the sampled tokens; `mask` tells the tokens of a completion
(its end included) from the padding after it, where nothing that stands counts. A loss is a weighted sum:

    loss = - sum of (terms - beta * kl) * weights

The weights are not the policy's: taken once from the mask of a whole batch, the sums of micro-batches add up to the
batch's. Completions of groups that teach nothing are masked out whole.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from audiorl_cli.config import LossConfig
from audiorl_cli.loss_config import KlEstimator
from audiorl_cli.rl import advantages
from audiorl_cli.rl.advantages import Advantages, Lengths, Rewards

LogProbs = Float[Array, "completions tokens"]
Mask = Bool[Array, "completions tokens"]
Weights = Float[Array, "completions tokens"]


class Terms(NamedTuple):
    """What a loss makes of each token, to be maximised, and which tokens its clip held back (none of the padding)."""

    values: Float[Array, "completions tokens"]
    clipped: Bool[Array, "completions tokens"]


# Ratios and divergences


def log_ratio(new: LogProbs, old: LogProbs, mask: Mask) -> Float[Array, "completions tokens"]:
    """log(new / old) of each token, 0 in the padding: what stands there could overflow, and infinity times 0 is nan."""
    return jnp.where(mask, new - old, 0.0)


def ratio(new: LogProbs, old: LogProbs, mask: Mask) -> Float[Array, "completions tokens"]:
    """r = new / old of each token (PPO, arXiv:1707.06347, eq. 6), 1 in the padding."""
    return jnp.exp(log_ratio(new, old, mask))


def sequence_ratio(new: LogProbs, old: LogProbs, mask: Mask) -> Float[Array, " completions"]:
    """s = (new / old of the completion) ^ (1 / its tokens) (GSPO, arXiv:2507.18071, eq. 7), 1 for an empty one.

    It moves far less than a token's ratio does: the paper clips it 3e-4 below and 4e-4 above 1 (section 5.1).
    """
    return jnp.exp(log_ratio(new, old, mask).sum(axis=1) / _tokens(mask))


# Estimates of the KL from one sampled token, with their bias. Let p be the policy, q the reference, and x a token that
# the old policy sampled: until the first update of a rollout, p itself. Schulman, "Approximating KL Divergence",
# http://joschu.net/blog/kl-approx.html; what each has for a gradient: Tang and Munos, arXiv:2506.09477.


def kl_k2(new: LogProbs, reference: LogProbs, mask: Mask) -> Float[Array, "completions tokens"]:
    """(log(p / q))^2 / 2 of each token, >= 0 and 0 in the padding: k2.

    As a value it is biased, by the third order of log(p / q). On tokens that p sampled its expected gradient is that of
    KL(p || q), exactly: E[log(p / q) grad log p]. On tokens of an older policy it is not.
    """
    return 0.5 * log_ratio(new, reference, mask) ** 2


def kl_k3(new: LogProbs, reference: LogProbs, mask: Mask) -> Float[Array, "completions tokens"]:
    """q / p - log(q / p) - 1 of each token, >= 0 and 0 in the padding: k3 (DeepSeekMath, arXiv:2402.03300, eq. 4).

    As a value it is unbiased for KL(p || q) on tokens that p sampled. Its expected gradient there is another's:
    E[(1 - q / p) grad log p] = - E_q[grad log p], that of KL(q || p). On tokens of an older policy it is neither.
    """
    difference = log_ratio(reference, new, mask)
    return jnp.exp(difference) - difference - 1.0


def kl_unbiased(new: LogProbs, old: LogProbs, reference: LogProbs, mask: Mask) -> Float[Array, "completions tokens"]:
    """p / old * (q / p - log(q / p) - 1) of each token, >= 0 and 0 in the padding: k3 weighted by importance
    (DeepSeek-V3.2, arXiv:2512.02556, eq. 7; TRL's `use_bias_correction_kl`).

    On tokens that `old` sampled both its value and its expected gradient, the weight's included, are those of
    KL(p || q) of the token: no bias, on or off policy, at a variance that grows with p / old. What a token changes in
    the KL of later ones is not in it (nor in k2 and k3), which `kl_penalty` has.
    """
    return ratio(new, old, mask) * kl_k3(new, reference, mask)


def kl_penalty(
    old: Float[Array, "*shape tokens"], reference: Float[Array, "*shape tokens"], mask: Bool[Array, "*shape tokens"]
) -> Float[Array, "*shape"]:
    """sum of log(p / q) over the tokens of each completion: k1 of the whole of it, to be subtracted from its reward
    with the weight beta (InstructGPT, arXiv:2203.02155, eq. 2; `use_kl_in_reward` of verl).

    It is unbiased for KL(p || q) of completions, of either sign, and not differentiated: as part of the reward its
    policy gradient is that of KL(p || q), later tokens included.
    """
    return jnp.where(mask, old - reference, 0.0).sum(axis=-1)


def kl(
    estimator: KlEstimator, new: LogProbs, old: LogProbs, reference: LogProbs, mask: Mask
) -> Float[Array, "completions tokens"]:
    """The estimate to be differentiated in a loss; none, 0, for k1, which the reward has."""
    match estimator:
        case "k1":
            return jnp.zeros_like(new)
        case "k2":
            return kl_k2(new, reference, mask)
        case "k3":
            return kl_k3(new, reference, mask)
        case "unbiased":
            return kl_unbiased(new, old, reference, mask)


# Terms of the policy: a ratio and its advantage, of a token or of a completion


def ppo(
    ratio: Float[Array, "*shape"], advantage: Float[Array, "*#shape"], low: float, high: float
) -> Float[Array, "*shape"]:
    """min(r A, clip(r, 1 - low, 1 + high) A) (PPO, arXiv:1707.06347, eq. 7; low != high: DAPO, 2503.14476, eq. 8).

    EasyDeL takes the maximum for negative advantages: there a token to be made less likely is let go above 1 + high and
    pushed down without end below 1 - low, here the other way round.
    """
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - low, 1 + high) * advantage)


def ppo_clipped(
    ratio: Float[Array, "*shape"], advantage: Float[Array, "*#shape"], low: float, high: float
) -> Bool[Array, "*shape"]:
    """Where `ppo` has no gradient: above 1 + high for positive advantages, below 1 - low for negative ones."""
    return ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))


def two_sided(
    ratio: Float[Array, "*shape"], advantage: Float[Array, "*#shape"], low: float, high: float, cap: float
) -> Float[Array, "*shape"]:
    """min(min(r, cap) A, clip(r, 1 - low, 1 + high) A), cap > 1 + high (INTELLECT-2, arXiv:2505.07291).

    PPO's clip leaves the ratio of a negative advantage without an upper bound; this gives it one, and is `ppo`
    elsewhere.
    """
    return ppo(jnp.minimum(ratio, cap), advantage, low, high)


def two_sided_clipped(
    ratio: Float[Array, "*shape"], advantage: Float[Array, "*#shape"], low: float, high: float, cap: float
) -> Bool[Array, "*shape"]:
    """Where `two_sided` has no gradient: as `ppo_clipped`, and above the cap for negative advantages."""
    return ppo_clipped(ratio, advantage, low, high) | ((advantage < 0) & (ratio > cap))


def cispo(
    new: Float[Array, "*shape"],
    ratio: Float[Array, "*shape"],
    advantage: Float[Array, "*#shape"],
    low: float,
    high: float,
) -> Float[Array, "*shape"]:
    """sg(clip(r, 1 - low, 1 + high)) A log(new) (CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5).

    The weight of a token is clipped, its gradient never lost. The paper sets `low` so large that it bounds nothing:
    from 1 on it does. EasyDeL and TRL take `epsilon_high` itself for the bound, not 1 + it, and EasyDeL does not stop
    the gradient of the weight.
    """
    return jax.lax.stop_gradient(jnp.clip(ratio, 1 - low, 1 + high)) * advantage * new


def cispo_clipped(ratio: Float[Array, "*shape"], low: float, high: float) -> Bool[Array, "*shape"]:
    """Where the weight of `cispo` is another than the ratio."""
    return (ratio < 1 - low) | (ratio > 1 + high)


# Weights


def completion_mean(mask: Mask) -> Weights:
    """1 / (completions * tokens of the completion) (DeepSeekMath, arXiv:2402.03300, eq. 3; for GSPO, its eq. 5).

    Completions masked out count: the mean is over all that were sampled, as in EasyDeL.
    """
    return mask / (mask.shape[0] * _tokens(mask)[:, None])


def token_mean(mask: Mask) -> Weights:
    """1 / tokens of the batch (DAPO, arXiv:2503.14476, eq. 8; CISPO, arXiv:2506.13585, eq. 4; GFPO).

    The papers write it for one prompt: 1 / tokens of its group, then a mean over prompts. DAPO's own code, TRL and
    EasyDeL take all the batch's prompts as one, and so does this. Completions masked out do not count.
    """
    return mask / jnp.maximum(mask.sum(), 1)


def constant_mean(mask: Mask, max_tokens: int) -> Weights:
    """1 / (completions * max_tokens) (Dr. GRPO, arXiv:2503.20783, section 3.2: sums over a constant, the budget).

    `max_tokens`: the most tokens a completion may have; EasyDeL takes the width of the batch. Completions masked out
    count.
    """
    return mask / (mask.shape[0] * max_tokens)


def completion_sum(mask: Mask) -> Weights:
    """1 / completions: the gradient of log(new) of whole completions (BNPO, arXiv:2506.02864, its code's setting)."""
    return mask / mask.shape[0]


def total(terms: LogProbs, divergence: LogProbs, weights: Weights, beta: float) -> Float[Array, ""]:
    """- sum of (terms - beta * kl) * weights, to be minimised (DeepSeekMath, arXiv:2402.03300, eq. 3)."""
    return -((terms - beta * divergence) * weights).sum()


def _tokens(mask: Mask) -> Float[Array, " completions"]:
    return jnp.maximum(mask.sum(axis=1), 1).astype(jnp.float32)


# The losses a config can name


@dataclass(frozen=True)
class Loss:
    """A loss as its three parts, called alike for every kind.

    `advantages(rewards, lengths, config)` [prompts, group]; `terms(new, old, advantages, mask, config)`, with the
    advantages of the completions in a row; `weights(mask, max_tokens)` of the whole batch's mask.
    """

    advantages: Callable[[Rewards, Lengths, LossConfig], Advantages]
    terms: Callable[[LogProbs, LogProbs, Float[Array, " completions"], Mask, LossConfig], Terms]
    weights: Callable[[Mask, int], Weights]


def _clip_terms(
    new: LogProbs, old: LogProbs, advantage: Float[Array, " completions"], mask: Mask, config: LossConfig
) -> Terms:
    """PPO's clip on each token, with INTELLECT-2's cap where the config has one."""
    moved, column = ratio(new, old, mask), advantage[:, None]
    bounds = config.epsilon, config.epsilon_high, config.delta or math.inf
    return Terms(two_sided(moved, column, *bounds), two_sided_clipped(moved, column, *bounds))


def _cispo_terms(
    new: LogProbs, old: LogProbs, advantage: Float[Array, " completions"], mask: Mask, config: LossConfig
) -> Terms:
    moved, bounds = ratio(new, old, mask), (config.epsilon, config.epsilon_high)
    values = cispo(jnp.where(mask, new, 0.0), moved, advantage[:, None], *bounds)
    return Terms(values, cispo_clipped(moved, *bounds))


def _gspo_terms(
    new: LogProbs, old: LogProbs, advantage: Float[Array, " completions"], mask: Mask, config: LossConfig
) -> Terms:
    """PPO's clip on each completion (GSPO, arXiv:2507.18071, eq. 5), its term and its fate told of each token."""
    moved, bounds = sequence_ratio(new, old, mask), (config.epsilon, config.epsilon_high)
    values, clipped = ppo(moved, advantage, *bounds), ppo_clipped(moved, advantage, *bounds)
    return Terms(jnp.broadcast_to(values[:, None], mask.shape), clipped[:, None] & mask)


def _of_rewards(function: Callable[[Rewards], Advantages]) -> Callable[[Rewards, Lengths, LossConfig], Advantages]:
    return lambda rewards, lengths, config: function(rewards)


def _gfpo_advantages(rewards: Rewards, lengths: Lengths, config: LossConfig) -> Advantages:
    kept = {
        "length": lambda: advantages.shortest(lengths, config.gfpo_keep),
        "efficiency": lambda: advantages.most_efficient(rewards, lengths, config.gfpo_keep),
    }[config.gfpo_metric]()
    return advantages.gfpo(rewards, kept)


def _of_mask(function: Callable[[Mask], Weights]) -> Callable[[Mask, int], Weights]:
    return lambda mask, max_tokens: function(mask)


LOSSES: Final[dict[str, Loss]] = {
    "grpo": Loss(_of_rewards(advantages.grpo), _clip_terms, _of_mask(completion_mean)),
    "bnpo": Loss(_of_rewards(advantages.bnpo), _clip_terms, _of_mask(completion_sum)),
    "dr_grpo": Loss(_of_rewards(advantages.dr_grpo), _clip_terms, constant_mean),
    "dapo": Loss(_of_rewards(advantages.grpo), _clip_terms, _of_mask(token_mean)),
    "cispo": Loss(_of_rewards(advantages.grpo), _cispo_terms, _of_mask(token_mean)),
    "gspo": Loss(_of_rewards(advantages.grpo), _gspo_terms, _of_mask(completion_mean)),
    "gfpo": Loss(_gfpo_advantages, _clip_terms, _of_mask(token_mean)),
}
