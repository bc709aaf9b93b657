"""Our step (`engine = "audiorl"`): each clip heard once, each prompt read once, and then its completions.

On the same completions it computes what EasyDeL's trainer does in `rl/easydel_engine.py`, to float rounding, where the
two agree on the loss; the losses are the papers' (`rl/loss.py`).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from audiorl_cli import core
from audiorl_cli.bridge import lora
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import Rollout, rollout
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.rl.advantages import overlong, teaches
from audiorl_cli.rl.judge import Judge, Verdict, samples
from audiorl_cli.rl.loss import LOSSES, kl, total
from audiorl_cli.rl.metrics import Sample, StepMetrics
from audiorl_cli.rl.optimizer import adamw, frozen_modules, frozen_parts, held, schedule
from audiorl_cli.rl.state import given_back, taken
from audiorl_cli.rl.update import Groups, Scorer, Sums


class AudioEngine:
    """One model under training: rows in, a step's metrics and samples out. Everything is compiled once a run."""

    def __init__(self, config: RunConfig, checkpoint: Checkpoint, shards: Shards) -> None:
        parts = frozen_parts(config.train.freeze_audio_tower)
        model = lora.adapted(checkpoint.model, config.lora, config.seed, parts)
        self.config, self._checkpoint = config, dataclasses.replace(checkpoint, model=model)
        self._prompter = Prompter(checkpoint.tokenizer, config.prompt)
        # One length for the whole run, so that nothing is compiled twice and a resumed run computes the same.
        self._length = max(self._prompter.length(frames) for frames in set(shards.column("num_frames")))
        self._judge = Judge(config.reward, shards.texts())
        self._loss = LOSSES[config.loss.kind]
        updates = config.train.steps * config.loss.iterations
        self._rate = schedule(config.optimizer, updates)
        frozen = frozen_modules(*parts)
        # EasyDeL's state puts parameters and optimizer on the mesh; each update gives the buffers of the last away.
        self._state = model.to_state().init_tx(adamw(config.optimizer, updates, frozen)).shard_state()
        self._reference = jax.tree_util.tree_map(jnp.copy, self._state.graphstate) if config.loss.beta else None

        compiled = _Programs(config, self._state.graphdef, model.mesh, frozen)
        whole = NamedSharding(model.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
        self._hear = jax.jit(compiled.hear, out_shardings=whole) if config.train.freeze_audio_tower else None
        self._sample = jax.jit(compiled.sample, out_shardings=whole)
        self._score = jax.jit(compiled.score, out_shardings=whole)
        self._update = jax.jit(compiled.update, donate_argnums=0, out_shardings=(self._state.shardings, whole))

    @property
    def step(self) -> int:
        """Steps done; each has `loss.iterations` updates."""
        return int(self._state.step) // self.config.loss.iterations

    def update(self, indices: Sequence[int], rows: Sequence[Row]) -> tuple[StepMetrics, tuple[Sample, ...]]:
        """One step on `rows`, whose numbers in the shards are `indices`."""
        start = time.perf_counter()
        rate = float(self._rate(self._state.step))
        prompts = self._prompts(indices, rows)
        drawn, texts = self._roll_out(prompts)
        rollout_s = time.perf_counter() - start
        verdict = self._judge(indices, texts)
        groups, spread = self._groups(prompts, drawn, verdict)
        told = []
        for _ in range(self.config.loss.iterations):
            self._state, numbers = self._update(self._state, prompts, groups)
            told.append(numbers)
        sums, norms = jax.device_get(jax.tree_util.tree_map(lambda *all_: jnp.stack(all_).mean(), *told))
        tokens, taught = int(groups.mask.sum()), int(groups.taught.sum())
        metrics = StepMetrics(
            step=self.step,
            reward_mean=float(verdict.rewards.mean()),
            reward_std=float(verdict.rewards.std(axis=1).mean()),
            sample_wer=verdict.errors.rate,
            kl=float(sums.kl) / taught if self._reference is not None and taught else None,
            entropy=float(sums.entropy) / tokens,
            clip_share=float(sums.clipped) / taught if taught else None,
            zero_spread_share=1.0 - float(spread.mean()),
            truncated_share=1.0 - float(np.asarray(drawn.ended).mean()),
            completion_tokens_mean=tokens / len(texts),
            loss=float(sums.loss),
            grad_norm=float(norms),
            learning_rate=rate,
            rollout_s=rollout_s,
            update_s=time.perf_counter() - start - rollout_s,
            step_s=time.perf_counter() - start,
        )
        return metrics, samples(metrics.step, rows, verdict, self.config.train.samples_per_step)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that an update changes, on the host, by its path in the state."""
        return taken(self._state)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `arrays` gave. Raises ModelError where they are not of this model and optimizer."""
        self._state = given_back(self._state, arrays)

    def checkpoint(self) -> Checkpoint:
        """The model as it now is; further updates take its buffers away."""
        return dataclasses.replace(self._checkpoint, model=self._state.model)

    def _prompts(self, indices: Sequence[int], rows: Sequence[Row]) -> Prompts:
        """The prompts of `rows`, heard already where no update changes what the tower makes of them."""
        columns = [
            prompt_row(row, index, self._prompter, self._length) for index, row in zip(indices, rows, strict=True)
        ]
        names = ("input_ids", "attention_mask", core.FEATURE_ATTENTION_MASK, core.INPUT_FEATURES)
        prompts = Prompts(*(jnp.asarray(np.stack([column[name] for column in columns])) for name in names))
        if self._hear is None:
            return prompts
        return prompts._replace(audio=self._hear(*self._parameters(), prompts), input_features=None)

    def _roll_out(self, prompts: Prompts) -> tuple[Rollout, list[str]]:
        """A group of completions of each prompt, and their texts."""
        drawn: Rollout = self._sample(*self._parameters(), prompts, self._state.step)
        ids, mask = (np.asarray(array).reshape(-1, array.shape[-1]) for array in (drawn.drawn.tokens, drawn.mask))
        kept = [row[of_row] for row, of_row in zip(ids, mask, strict=True)]
        return drawn, self._checkpoint.tokenizer.batch_decode(kept, skip_special_tokens=True)

    def _groups(self, prompts: Prompts, drawn: Rollout, verdict: Verdict) -> tuple[Groups, np.ndarray]:
        """The completions and what they are worth, and which groups have spread; the others are left out of it all."""
        settings, tokens, mask = self.config.loss, drawn.drawn.tokens, drawn.mask
        reference = None
        if self._reference is not None:
            reference = self._score(self._reference, self._state.graphother, prompts, tokens)
        lengths = mask.sum(axis=-1)
        rewards, limit = jnp.asarray(verdict.rewards, jnp.float32), self.config.rollout.max_new_tokens
        if settings.overlong_buffer:
            rewards += overlong(lengths, limit, settings.overlong_buffer)
        advantages = self._loss.advantages(rewards, lengths, settings)
        spread = teaches(advantages)
        taught = mask & spread[:, None, None]
        weights = self._loss.weights(taught.reshape(-1, limit), limit).reshape(taught.shape)
        return Groups(tokens, mask, taught, drawn.drawn.policy, reference, advantages, weights), np.asarray(spread)

    def _parameters(self) -> tuple[Any, Any]:
        return self._state.graphstate, self._state.graphother


@dataclasses.dataclass(frozen=True)
class _Programs:
    """What is compiled: pure functions of arrays, parameters first."""

    config: RunConfig
    graphdef: Any
    mesh: Any
    frozen: Any

    def hear(self, params: Any, other: Any, prompts: Prompts) -> Any:
        """The audio tower's vectors of each clip."""
        model = nnx.merge(self.graphdef, params, other)
        with self.mesh:
            return model.audio_tower(prompts.input_features, prompts.feature_attention_mask)

    def sample(self, params: Any, other: Any, prompts: Prompts, step: Any) -> Rollout:
        """The completions of a step: drawn with keys of (seed, step, row), whatever rows stand beside it."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), step)
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(prompts.input_ids)))
        return rollout(lambda: nnx.merge(self.graphdef, params, other), prompts, keys, self.config.rollout)

    def score(self, params: Any, other: Any, prompts: Prompts, tokens: Any) -> Any:
        """Log-probs of completions."""
        with self.mesh:
            return self._scorer(other).log_probs(params, prompts, tokens)

    def update(self, state: Any, prompts: Prompts, groups: Groups) -> tuple[Any, tuple[Sums, Any]]:
        """The state after one update, its sums and the norm of its gradient."""
        with self.mesh:
            sums, gradients = self._scorer(state.graphother).gradients(state.graphstate, prompts, groups, self.loss)
        return state.apply_gradients(grads=gradients), (sums, optax.tree.norm(gradients))

    def loss(self, new: Any, entropy: Any, groups: Groups) -> Sums:
        """The loss of `groups` where their tokens have the log-probs `new`."""
        settings, mask = self.config.loss, groups.taught.reshape(-1, new.shape[-1])
        new, old = new.reshape(mask.shape), groups.old.reshape(mask.shape)
        terms = LOSSES[settings.kind].terms(new, old, groups.advantages.reshape(-1), mask, settings)
        divergence = jnp.zeros_like(new)
        if groups.reference is not None:
            divergence = kl(new, groups.reference.reshape(mask.shape), mask)
        return Sums(
            loss=total(terms.values, divergence, groups.weights.reshape(mask.shape), settings.beta),
            kl=divergence.sum(),
            clipped=terms.clipped.sum().astype(jnp.float32),
            entropy=(entropy * groups.mask).sum(),
        )

    def _scorer(self, other: Any) -> Scorer:
        def merge(params: Any) -> Any:
            return nnx.merge(self.graphdef, held(params, self.frozen), other)

        return Scorer(merge, self.config.rollout.temperature, self.config.memory)
