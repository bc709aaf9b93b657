"""The sampler and the policy: how far apart they are, and importance weights of what one draws and the other learns.

The sampler draws a token from what temperature, top-k, top-p and min-p leave of the decoding program's logits, never a
placeholder of audio. The policy is what the training program makes of the same weights over the whole vocabulary. In
bfloat16 the two programs round differently, and a sampler that leaves tokens out gives the others more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from audiorl_cli.config import LossConfig

LogProbs = Float[Array, "completions tokens"]
Mask = Bool[Array, "completions tokens"]


class Correction(NamedTuple):
    """Weights of the tokens' terms, and which of them are outliers: above the cap, cut to it or left out."""

    weights: Float[Array, "completions tokens"]
    outliers: Bool[Array, "completions tokens"]


class Difference(NamedTuple):
    """Over the tokens of completions, in nats: the sum of |log policy - log sampler| and the largest of these, and the
    sum of log sampler - log policy, of which the mean is an estimate of KL(sampler || policy).

    It is Schulman's k1, which is unbiased for any sampler. His k3 is not for one that leaves tokens out: it is too low
    by the probability that the policy gives these.
    """

    total: Float[Array, ""]
    largest: Float[Array, ""]
    kl: Float[Array, ""]


def correction(policy: LogProbs, sampler: LogProbs, mask: Mask, config: LossConfig) -> Correction:
    """Importance weights of the policy over the sampler, by `config.sampler_correction`; `mask`: all tokens drawn.

    w = policy / sampler of each token ("token"), or the product of these over a completion, for all of its tokens
    ("sequence"); 1 for "none" and in the padding. What a weight above `config.sampler_cap` becomes is said by
    `config.sampler_outliers`: "truncate": the cap (truncated importance sampling; Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl); "mask": 0, and the token or completion still counts in the mean. So do
    TRL's `vllm_importance_sampling_mode` and verl's `rollout_is`.

    A term is drawn from the sampler, so that its mean is one over the policy's draws only with a weight, and so is that
    of the KL to the reference: the weight is that of both. "sequence" is unbiased where the sampler may draw all that
    the policy may and no weight is an outlier, and varies the more the longer completions are. "token" takes for each
    token what came before it as the sampler drew it. Neither brings back what top-k, top-p or min-p leave out: under
    these every w is below 1 by the share S of the policy's probability that they leave, and the step is smaller by S
    (S ^ tokens for "sequence") than one that takes what was drawn for the policy's.

    "none" is the default: where the two differ by rounding alone, weights bring nothing. Of the model of
    `benchmarks/bench_model.py` in bfloat16 (0.027 nats a token apart on average) the cosine of the gradient to that of
    float32 was 0.985 without, 0.984 with those of tokens, 0.916 with those of completions.
    """
    log_ratio = jnp.where(mask, policy - sampler, 0.0)
    if config.sampler_correction == "none":
        return Correction(jnp.ones_like(log_ratio), jnp.zeros_like(mask))
    if config.sampler_correction == "sequence":
        log_ratio = jnp.broadcast_to(log_ratio.sum(axis=1, keepdims=True), log_ratio.shape)
    weights = jnp.where(mask, jnp.exp(log_ratio), 1.0)
    outliers = weights > config.sampler_cap
    instead = config.sampler_cap if config.sampler_outliers == "truncate" else 0.0
    return Correction(jax.lax.stop_gradient(jnp.where(outliers, instead, weights)), outliers)


def difference(policy: LogProbs, sampler: LogProbs, mask: Mask) -> Difference:
    """How far apart the log-probs are; `mask`: all tokens drawn."""
    apart = jax.lax.stop_gradient(jnp.where(mask, sampler - policy, 0.0))
    return Difference(jnp.abs(apart).sum(), jnp.abs(apart).max(), apart.sum())
