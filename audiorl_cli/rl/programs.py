"""What our step compiles: pure functions of arrays; and, for who has no weights, the shapes that they are given."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from audiorl_cli import core
from audiorl_cli.bridge import lora
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.configuration import DTYPES
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import Rollout, rollout, row_keys
from audiorl_cli.bridge.mesh import batch_shards, by_rows, everywhere
from audiorl_cli.bridge.weights import abstract_state, ready
from audiorl_cli.config import RunConfig
from audiorl_cli.rl.correction import correction, difference
from audiorl_cli.rl.loss import LOSSES, kl, kl_k3, total
from audiorl_cli.rl.optimizer import IsFrozen, adamw, apply_gradients, frozen_modules, frozen_parts, held
from audiorl_cli.rl.update import Groups, Scorer, Sums


class Pool(NamedTuple):
    """Prompts of these rows, their completions, and what these earned, [prompts, group], length and all."""

    rows: Array | np.ndarray
    prompts: Prompts
    drawn: Rollout
    rewards: Array


class Jitted(NamedTuple):
    """The programs, compiled when they are first called. `hear` is None where the tower learns: nobody hears ahead."""

    hear: Any
    sample: Any
    choose: Any
    score: Any
    update: Any


@dataclass(frozen=True)
class Programs:
    """Pure functions of arrays, parameters first."""

    config: RunConfig
    graphdef: Any
    mesh: Any
    frozen: IsFrozen

    def jitted(self, state: Any) -> Jitted:
        """The programs for `state`, which stays where its arrays are, or its shapes say that they are."""
        rows, whole = by_rows(self.mesh), everywhere(self.mesh)
        places = jax.tree_util.tree_map(lambda leaf: leaf.sharding, state)
        return Jitted(
            jax.jit(self.hear, out_shardings=rows) if self.config.train.freeze_audio_tower else None,
            jax.jit(self.sample, out_shardings=rows),
            jax.jit(self.choose, out_shardings=rows),
            jax.jit(self.score, out_shardings=rows),
            jax.jit(self.update, donate_argnums=0, out_shardings=(places, whole, rows)),
        )

    def hear(self, params: Any, other: Any, prompts: Prompts) -> Any:
        """The audio tower's vectors of each clip."""
        model = ready(nnx.merge(self.graphdef, params, other))
        with self.mesh:
            return model.audio_tower(prompts.input_features, prompts.feature_attention_mask)

    def sample(self, params: Any, other: Any, prompts: Prompts, step: Any, first: Any) -> Rollout:
        """Completions, drawn with keys of (seed, step, row), the rows being numbered from `first`."""
        keys = row_keys(self.config.seed, step, first, len(prompts.input_ids))
        graph, state = nnx.split(ready(nnx.merge(self.graphdef, params, other)))
        return rollout(lambda: nnx.merge(graph, state), prompts, keys, self.config.rollout)

    def choose(self, pool: Pool, more: Pool, places: Any) -> Pool:
        """The prompts at `places` of the two one after the other."""
        chosen: Pool = jax.tree_util.tree_map(lambda a, b: jnp.concatenate([a, b])[places], pool, more)
        return chosen

    def score(self, params: Any, other: Any, prompts: Prompts, tokens: Any) -> Any:
        """Log-probs of completions."""
        with self.mesh:
            return self._scorer(other).log_probs(params, prompts, tokens)

    def update(
        self, state: Any, prompts: Prompts, groups: Groups, first: Any = True
    ) -> tuple[Any, tuple[Sums, Any], Any]:
        """The state after one update, its sums and the norm of its gradient, and the log-probs of the policy before it.

        Those of the `first` update of a rollout are the old ones of the others, by a program that rounds as theirs.
        Where loss or norm is no finite number, or no group teaches, the update is none, but it counts.
        """
        loss = partial(self.loss, first=first)
        with self.mesh:
            sums, gradients, log_probs = self._scorer(state.graphother).gradients(
                state.graphstate, prompts, groups, loss
            )
        norm = optax.tree.norm(gradients)
        # The optimizer takes no gradient that is no number, or zero throughout (rl/optimizer.py).
        told = jax.tree_util.tree_map(lambda leaf: jnp.where(jnp.isfinite(sums.loss), leaf, jnp.nan), gradients)
        return apply_gradients(state, told), (sums, norm), log_probs

    def loss(self, new: Any, entropy: Any, groups: Groups, first: Any = True) -> Sums:
        """The loss of `groups` where their tokens have the log-probs `new`; those are the old ones in the `first`."""
        settings, mask = self.config.loss, groups.taught.reshape(-1, new.shape[-1])
        new, sampler, drawn = (array.reshape(mask.shape) for array in (new, groups.sampler, groups.mask))
        old = jax.lax.stop_gradient(new)  # so that the ratio is 1, however the sampler rounded
        if groups.old is not None:
            old = jnp.where(first, old, groups.old.reshape(mask.shape))
        weighed = correction(old, sampler, drawn, settings)
        terms = LOSSES[settings.kind].terms(new, old, groups.advantages.reshape(-1), mask, settings)
        penalty = divergence = jnp.zeros_like(new)
        if groups.reference is not None:
            reference = groups.reference.reshape(mask.shape)
            penalty = kl(settings.kl_estimator, new, old, reference, mask)
            divergence = kl_k3(new, reference, mask)  # the same number in every run, whatever is differentiated
        return Sums(
            loss=total(terms.values, penalty, groups.weights.reshape(mask.shape) * weighed.weights, settings.beta),
            kl=divergence.sum(),
            clipped=terms.clipped.sum().astype(jnp.float32),
            outliers=(weighed.outliers & mask).sum().astype(jnp.float32),
            entropy=(entropy * groups.mask).sum(),
            sampler=difference(old, sampler, drawn),
        )

    def _scorer(self, other: Any) -> Scorer:
        def merge(params: Any) -> Any:
            return ready(nnx.merge(self.graphdef, held(params, self.frozen), other))

        return Scorer(merge, self.config.rollout.temperature, self.config.memory, batch_shards(self.mesh))


def reference_of(config: RunConfig, params: Any) -> Any:
    """A copy of `params` that stays as it is, no wider than what is computed with it."""
    masters, kind = config.train.master_weights, DTYPES[config.train.dtype]
    return jax.tree_util.tree_map(lambda leaf: jnp.copy(leaf).astype(kind if masters else leaf.dtype), params)


def abstract_programs(
    config: RunConfig, checkpoint: Checkpoint, prompt_tokens: int, frames: int
) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The programs that a run of `config` compiles, by name, each with the shapes that it is given and their places.

    `program.lower(*arguments)` of each is what `AudioEngine` runs, on the mesh of `checkpoint`, which may be without
    weights and of another machine (`bridge.checkpoint.abstract`). Prompts have `prompt_tokens`, clips `frames`.
    """
    parts = frozen_parts(config.train.freeze_audio_tower)
    model = nnx.eval_shape(lambda model: lora.adapted(model, config.lora, config.seed, parts), checkpoint.model)
    frozen, mesh = frozen_modules(*parts), checkpoint.model.mesh
    updates = config.train.steps * config.loss.iterations
    state = abstract_state(model, adamw(config.optimizer, updates, frozen))
    programs = Programs(config, state.graphdef, mesh, frozen).jitted(state)
    parameters, rows = (state.graphstate, state.graphother), by_rows(mesh)

    of_any: Any = jax.ShapeDtypeStruct  # it has no types

    def of(*shape: int, dtype: Any = jnp.float32) -> Any:
        return of_any((config.train.batch_size, *shape), dtype, sharding=rows)

    group, limit = config.rollout.group_size, config.rollout.max_new_tokens
    ids, mask, valid = (of(length, dtype=jnp.int32) for length in (prompt_tokens, prompt_tokens, frames))
    prompts = Prompts(ids, mask, valid, of(core.MEL_BINS, frames))
    found: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    if programs.hear is not None:
        found["hear"] = programs.hear, (*parameters, prompts)
        audio = jax.eval_shape(programs.hear, *parameters, prompts)
        prompts = prompts._replace(input_features=None, audio=of(*audio.shape[1:], dtype=audio.dtype))
    found["sample"] = programs.sample, (*parameters, prompts, state.step, 0)
    tokens, counted, scores = (of(group, limit, dtype=dtype) for dtype in (jnp.int32, jnp.bool_, jnp.float32))
    if config.loss.beta:
        kinds = jax.eval_shape(partial(reference_of, config), state.graphstate)
        reference = jax.tree_util.tree_map(lambda leaf, like: leaf.update(dtype=like.dtype), state.graphstate, kinds)
        found["score"] = programs.score, (reference, state.graphother, prompts, tokens)
    old, reference_scores = (scores if there else None for there in (config.loss.iterations > 1, config.loss.beta))
    groups = Groups(tokens, counted, counted, scores, old, reference_scores, of(group), scores)
    first = of_any((), jnp.bool_)
    found["update"] = programs.update, (state, prompts, groups, first)
    return found
