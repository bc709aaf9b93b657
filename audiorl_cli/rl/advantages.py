"""From the rewards of groups to advantages, one pure function an equation; float32.

Rewards, lengths (in tokens) and advantages are [prompts, group]. A group whose rewards do not spread has nothing to
teach: its advantages are exactly 0, where float residue of its mean would prefer one completion to another. What the
advantages are taken from is not differentiated: rewards are constants to the policy.
"""

from typing import Final

import jax.numpy as jnp
from jax.scipy.stats import beta as beta_distribution
from jaxtyping import Array, Bool, Float, Int

Rewards = Float[Array, "prompts group"]
Lengths = Int[Array, "prompts group"]
Advantages = Float[Array, "prompts group"]
Kept = Bool[Array, "prompts group"]

# Rewards are fractions of word counts: two that differ do so by far more, and float residue by far less.
ZERO_SPREAD: Final = 1e-6

# The papers divide by the bare deviation; this is what EasyDeL and TRL add to it.
STD_EPSILON: Final = 1e-4

# A density sharper than that of a standard deviation of 0.01 is the difference of large logarithms of gamma functions,
# which float32 holds to some hundredths only, and to others on another processor.
LEAST_VARIANCE: Final = 1e-4

# The authors' bound on 1 / density (their code, not the paper), which is infinite where the density is 0.
MOST_WEIGHT: Final = 1e6


def spread(rewards: Rewards) -> Bool[Array, " prompts"]:
    """Which groups have rewards that differ; DAPO's dynamic sampling keeps these (arXiv:2503.14476, eq. 11).

    Rewards above 1 are told apart to the same relative precision, as float32 holds them no finer.
    """
    largest = jnp.maximum(jnp.abs(rewards).max(axis=1), 1.0)
    return jnp.ptp(rewards, axis=1) >= ZERO_SPREAD * largest


def has_signal(rewards: Rewards, in_loss: Bool[Array, "prompts group"]) -> Bool[Array, " prompts"]:
    """Tell which groups an update can learn from: those of `spread` with a completion in the loss.

    `in_loss`: completions that no mask leaves out; a group that was cut at the token limit whole may have none.
    """
    return spread(rewards) & in_loss.any(axis=1)


def teaches(advantages: Advantages) -> Bool[Array, " prompts"]:
    """Which groups have an advantage other than 0: those of `spread`, but for GFPO's that kept equal rewards only.

    The others are to be left out of the loss whole, the KL too: alone in a batch, their KL would be blown up to whole
    steps by Adam's division.
    """
    return (advantages != 0).any(axis=1)


def dr_grpo(rewards: Rewards) -> Advantages:
    """A = r - mean(r) over the group (Dr. GRPO, arXiv:2503.20783, section 3.2). EasyDeL's `dr_grpo` still divides."""
    return jnp.where(spread(rewards)[:, None], rewards - rewards.mean(axis=1, keepdims=True), 0.0)


def grpo(rewards: Rewards) -> Advantages:
    """A = (r - mean(r)) / std(r) over the group (DeepSeekMath, arXiv:2402.03300, section 4.1.2).

    The paper does not say which deviation. It is the population's here, plus 1e-4, as in EasyDeL; TRL's is the
    sample's, plus 1e-4.
    """
    return dr_grpo(rewards) / (rewards.std(axis=1, keepdims=True) + STD_EPSILON)


def bnpo(rewards: Rewards) -> Advantages:
    """A = (r - p) / Beta(p; alpha, beta), p the group's mean, for rewards in [0, 1] (BNPO, arXiv:2506.02864).

    alpha = 1 + a / 3 and beta = 1 + b / 3, where Beta(a, b) has the mean m and the variance v of the p of the batch
    (method of moments): a = (m (1 - m) / v - 1) m, b = (m (1 - m) / v - 1) (1 - m). As in the authors' code v is the
    sample's, alpha and beta are at least 1, 1 / Beta at most 1e6, and a batch of one prompt has the uniform density.
    What EasyDeL and TRL call `bnpo` is another thing: GRPO's advantages under a mean over the tokens of a batch.
    """
    p = rewards.mean(axis=1)
    if p.size > 1:
        mean, variance = p.mean(), jnp.maximum(p.var(ddof=1), LEAST_VARIANCE)
        size = mean * (1 - mean) / variance - 1
        alpha, beta = jnp.maximum(1 + size * mean / 3, 1.0), jnp.maximum(1 + size * (1 - mean) / 3, 1.0)
    else:
        alpha = beta = jnp.ones(())
    weight = jnp.minimum(1 / beta_distribution.pdf(p, alpha, beta), MOST_WEIGHT)
    return dr_grpo(rewards) * weight[:, None]


def gfpo(rewards: Rewards, kept: Kept) -> Advantages:
    """A = (r - mean(r)) / std(r) over those kept of the group, 0 for the others (GFPO, arXiv:2508.09726, section 3).

    Deviation and 1e-4 are as in `grpo`. Groups whose kept rewards do not spread get 0. TRL and EasyDeL cut the others
    out of the batch before the advantages; here, as in the paper, they stay in it, and in the count of its tokens.
    """
    mean = rewards.mean(axis=1, keepdims=True, where=kept)
    filled = jnp.where(kept, rewards, mean)
    deviation = rewards.std(axis=1, keepdims=True, where=kept) + STD_EPSILON
    return jnp.where(kept & spread(filled)[:, None], (rewards - mean) / deviation, 0.0)


def shortest(lengths: Lengths, keep: int) -> Kept:
    """The `keep` shortest of each group, the earlier of equals (GFPO, arXiv:2508.09726, section 3)."""
    return _first(lengths, keep)


def most_efficient(rewards: Rewards, lengths: Lengths, keep: int) -> Kept:
    """The `keep` of most reward / length of each group, the earlier of equals (GFPO, arXiv:2508.09726, section 3).

    For rewards >= 0, which a config is held to: of two below 0 the longer completion would have the more.
    """
    return _first(-rewards / jnp.maximum(lengths, 1), keep)


def overlong(lengths: Lengths, max_tokens: int, buffer: int) -> Rewards:
    """DAPO's soft overlong punishment, a reward in [-1, 0] (arXiv:2503.14476, eq. 13).

    0 up to max_tokens - buffer tokens, from there falling in a line to -1 at max_tokens, -1 beyond. `buffer`: the
    paper's L_cache, in tokens, >= 1.
    """
    return jnp.clip((max_tokens - buffer - lengths) / buffer, -1.0, 0.0)


def _first(scores: Float[Array, "prompts group"] | Lengths, keep: int) -> Kept:
    return jnp.argsort(jnp.argsort(scores, axis=1), axis=1) < keep
