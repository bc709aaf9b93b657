"""The gradient of a step, each prompt read once for all its completions; as much of it at a time as memory allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from audiorl_cli.bridge import decoder
from audiorl_cli.bridge.decoder import Prefix, Prompts
from audiorl_cli.bridge.logprobs import Scores, token_scores
from audiorl_cli.config import MemoryConfig
from audiorl_cli.rl.correction import Difference


class Groups(NamedTuple):
    """Completions of each prompt, and what their tokens are worth.

    `mask`: their tokens. `taught`: those of them that take part in the update. `sampler`: log-probs with which they
    were drawn; `old`: those of the policy before the first update, which finds them; None where there is no other;
    `reference`: those of the reference model, None where it has
    no say. `weights`: what the term of each token counts in the loss.
    """

    tokens: Int[Array, "prompts group tokens"]
    mask: Bool[Array, "prompts group tokens"]
    taught: Bool[Array, "prompts group tokens"]
    sampler: Float[Array, "prompts group tokens"]
    old: Float[Array, "prompts group tokens"] | None
    reference: Float[Array, "prompts group tokens"] | None
    advantages: Float[Array, "prompts group"]
    weights: Float[Array, "prompts group tokens"]


class Sums(NamedTuple):
    """The loss, and sums over tokens: of KL, of what was clipped and of outliers of the sampler over those taught, of
    entropy and of the sampler's difference from the policy over all."""

    loss: Float[Array, ""]
    kl: Float[Array, ""]
    clipped: Float[Array, ""]
    outliers: Float[Array, ""]
    entropy: Float[Array, ""]
    sampler: Difference

    def plus(self, other: "Sums") -> "Sums":
        """Those of both parts of a batch."""
        summed: Sums = jax.tree_util.tree_map(jnp.add, self, other)
        largest = jnp.maximum(self.sampler.largest, other.sampler.largest)
        return summed._replace(sampler=summed.sampler._replace(largest=largest))


LossOf = Callable[[Array, Array, Groups], Sums]
"""Log-probs and entropies of the tokens of groups -> what they sum to."""


@dataclass(frozen=True)
class Scorer:
    """Log-probs of completions under the model that `merge` makes of parameters, at the temperature of the rollout.

    What is held at once is `memory`'s to say, and changes nothing but the order of sums. Prompts are divided among
    `shards` devices, and so is every part of them.
    """

    merge: Callable[[Any], Any]
    temperature: float
    memory: MemoryConfig
    shards: int = 1

    def log_probs(
        self, params: Any, prompts: Prompts, tokens: Int[Array, "prompts group tokens"]
    ) -> Float[Array, "prompts group tokens"]:
        """The log-prob of each token, for a model that is not learnt from it."""

        def of_prompts(part: tuple[Prompts, Array]) -> Array:
            prefix = decoder.prefill(self.merge(params), part[0])

            def of_completions(tokens: Array) -> Array:
                return self._scores(self.merge(params), prefix, tokens).log_probs

            return _joined(_mapped(of_completions, _parts(part[1], self.memory.completions, 1)), 1)

        parts = _parts((prompts, tokens), self.memory.prompts, 0, self.shards)
        return _joined(_mapped(of_prompts, parts), 0, self.shards)

    def gradients(
        self, params: Any, prompts: Prompts, groups: Groups, loss: LossOf
    ) -> tuple[Sums, Any, Float[Array, "prompts group tokens"]]:
        """The loss with its sums, its gradient in `params`, and the log-prob of each token."""

        def of_prompts(part: tuple[Prompts, Groups]) -> tuple[Sums, Any, Array]:
            def read(params: Any) -> tuple[Any, Array]:
                prefix = decoder.prefill(self.merge(params), part[0], recompute=self.memory.recompute)
                return (prefix.layers, prefix.last), prefix.attended

            kept, pull, attended = jax.vjp(read, params, has_aux=True)

            def of_completions(groups: Groups) -> tuple[Sums, Any, Array]:
                def of(params: Any, kept: Any) -> tuple[Array, tuple[Sums, Array]]:
                    layers, last = kept
                    scores = self._scores(self.merge(params), Prefix(layers, attended, last), groups.tokens)
                    sums = loss(*scores, groups)
                    return sums.loss, (sums, scores.log_probs)

                gradients, (sums, log_probs) = jax.grad(of, argnums=(0, 1), has_aux=True)(params, kept)
                return sums, gradients, log_probs

            parts = _parts(part[1], self.memory.completions, 1)
            sums, (direct, of_kept), log_probs = _summed(of_completions, parts)
            (through_prompts,) = pull(of_kept)
            return sums, jax.tree_util.tree_map(jnp.add, direct, through_prompts), _joined(log_probs, 1)

        parts = _parts((prompts, groups), self.memory.prompts, 0, self.shards)
        sums, gradients, log_probs = _summed(of_prompts, parts)
        return sums, gradients, _joined(log_probs, 0, self.shards)

    def _scores(self, model: Any, prefix: Prefix, tokens: Array) -> Scores:
        hidden = decoder.foretell(model, prefix, tokens, recompute=self.memory.recompute)
        return token_scores(model, hidden, tokens, temperature=self.temperature, chunk=self.memory.vocabulary)


def _parts(tree: Any, size: int, axis: int, shards: int = 1) -> Any:
    """Every array of `tree` in parts of `size` along `axis` (all of it for 0), the parts along a new first axis.

    Where `shards` devices have divided the axis, each part is of rows of all of them, and none moves to another.
    """

    def parts(array: Array) -> Array:
        own = (size or array.shape[axis]) // shards
        split = array.reshape(*array.shape[:axis], shards, -1, own, *array.shape[axis + 1 :])
        split = jnp.moveaxis(split, axis + 1, 0)
        return split.reshape(*split.shape[: axis + 1], shards * own, *split.shape[axis + 3 :])

    return jax.tree_util.tree_map(parts, tree)


def _joined(parts: Array, axis: int, shards: int = 1) -> Array:
    """What `_parts` took apart."""
    split = parts.reshape(*parts.shape[: axis + 1], shards, -1, *parts.shape[axis + 2 :])
    split = jnp.moveaxis(split, 0, axis + 1)
    return split.reshape(*split.shape[:axis], -1, *split.shape[axis + 3 :])


def _mapped(function: Callable[[Any], Array], parts: Any) -> Array:
    """`function` of each part, one at a time."""
    if _count(parts) == 1:
        return function(_first(parts))[None]
    mapped: Array = jax.lax.map(function, parts)
    return mapped


def _summed(function: Callable[[Any], tuple[Sums, Any, Array]], parts: Any) -> tuple[Sums, Any, Array]:
    """The sums and gradients of `function` over the parts, one at a time, added up in float32, and the log-probs of
    each part."""
    if _count(parts) == 1:
        sums, gradients, log_probs = function(_first(parts))
        return sums, gradients, log_probs[None]
    *shapes, _ = jax.eval_shape(function, _first(parts))
    nothing = jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)

    def add(total: list[Any], part: Any) -> tuple[list[Any], Array]:
        (sums, gradients), (more, further, log_probs) = total, function(part)
        return [sums.plus(more), jax.tree_util.tree_map(jnp.add, gradients, further)], log_probs

    total, log_probs = jax.lax.scan(add, nothing, parts)
    sums, gradients = jax.tree_util.tree_map(lambda leaf, like: leaf.astype(like.dtype), total, shapes)
    return sums, gradients, log_probs


def _count(parts: Any) -> int:
    return len(jax.tree_util.tree_leaves(parts)[0])


def _first(parts: Any) -> Any:
    return jax.tree_util.tree_map(lambda array: array[0], parts)
