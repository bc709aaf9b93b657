"""Our step (`engine = "audiorl"`): each clip heard once, each prompt read once, and then its completions.

On the same completions it computes what EasyDeL's trainer does in `rl/easydel_engine.py`, to float rounding, where the
two agree on the loss; the losses are the papers' (`rl/loss.py`).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from audiorl_cli.bridge import hosts, lora
from audiorl_cli.bridge.audio_cache import AudioCache
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import Rollout
from audiorl_cli.bridge.mesh import own_rows, placed
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import stacked
from audiorl_cli.bridge.weights import trained
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.advantages import has_signal, spread, teaches
from audiorl_cli.rl.judge import Judge, Tally, earned, errors_and_rewards, samples, tally
from audiorl_cli.rl.lesson import Lesson, lesson
from audiorl_cli.rl.loss import LOSSES, kl_penalty
from audiorl_cli.rl.metrics import Sample, StepMetrics
from audiorl_cli.rl.optimizer import adamw, frozen_modules, frozen_parts, schedule
from audiorl_cli.rl.order import further_rows
from audiorl_cli.rl.programs import Pool, Programs, reference_of
from audiorl_cli.rl.state import at_step, given_back, taken
from audiorl_cli.rl.update import Groups


class AudioEngine:
    """One model under training: rows in, a step's metrics and samples out. Everything is compiled once a run."""

    def __init__(
        self, config: RunConfig, checkpoint: Checkpoint, shards: Shards, audio_cache: Path | None = None
    ) -> None:
        parts = frozen_parts(config.train.freeze_audio_tower)
        model = lora.adapted(checkpoint.model, config.lora, config.seed, parts)
        self.config, self._checkpoint = config, dataclasses.replace(checkpoint, model=model)
        self._prompter = Prompter(checkpoint.tokenizer, config.prompt)
        # One length for the whole run, so that nothing is compiled twice and a resumed run computes the same.
        self._length = max(self._prompter.length(frames) for frames in set(shards.column("num_frames")))
        self._shards = shards
        self._cache = AudioCache(audio_cache, model.audio_tower, shards) if audio_cache else None
        self._references, self._ids = shards.texts(), shards.column("id")
        self._judge = Judge.of(config.reward, shards)
        self._lessons: tuple[Any, ...] = ()
        self._loss = LOSSES[config.loss.kind]
        updates = config.train.steps * config.loss.iterations
        self._rate = schedule(config.optimizer, updates)
        frozen = frozen_modules(*parts)
        # EasyDeL's state puts parameters and optimizer on the mesh; each update gives the buffers of the last away.
        self._state = trained(model, adamw(config.optimizer, updates, frozen))
        self._reference = reference_of(config, self._state.graphstate) if config.loss.beta else None

        self._mesh = model.mesh
        programs = Programs(config, self._state.graphdef, model.mesh, frozen).jitted(self._state)
        self._hear, self._sample, self._choose, self._score, self._update = programs

    @property
    def mesh(self) -> Any:
        """The devices, of all processes."""
        return self._mesh

    @property
    def step(self) -> int:
        """Steps done; each has `loss.iterations` updates."""
        return int(self._state.step) // self.config.loss.iterations

    def update(self, indices: Sequence[int], rows: Sequence[Row]) -> tuple[StepMetrics, tuple[Sample, ...]]:
        """One step on the rows of `indices`, of which this process has `rows`."""
        start = time.perf_counter()
        before = int(self._state.step)
        rates = [float(self._rate(before + number)) for number in range(self.config.loss.iterations)]
        pool, shown, tallies = self._pool(indices, rows)
        rollout_s = time.perf_counter() - start
        groups = self._groups(pool)
        self._lessons = pool.rows, groups.tokens, groups.mask, pool.rewards, groups.advantages
        each = []
        for number in range(self.config.loss.iterations):
            self._state, numbers, log_probs = self._update(self._state, pool.prompts, groups, number == 0)
            each.append(numbers)
            if number == 0 and groups.old is not None:
                groups = groups._replace(old=log_probs)
        updates = jax.device_get(jax.tree_util.tree_map(lambda *all_: jnp.stack(all_), *each))
        sums, norm = jax.tree_util.tree_map(np.mean, updates)
        if self.config.train.on_nonfinite == "stop" and not np.isfinite(updates[0].loss + updates[1]).any():
            self._state = at_step(self._state, before)  # none of its updates was made
        tokens, taught = int(groups.mask.sum()), int(groups.taught.sum())
        corrects = self.config.loss.sampler_correction != "none"
        rewards = np.concatenate([each.rewards for each in tallies])
        metrics = StepMetrics(
            step=before // self.config.loss.iterations + 1,
            reward_mean=float(rewards.mean()),
            reward_std=float(rewards.std(axis=1).mean()),
            **errors_and_rewards(tallies),
            kl=float(sums.kl) / taught if self._reference is not None and taught else None,
            zero_spread_share=1.0 - float(np.asarray(spread(jnp.asarray(rewards, jnp.float32))).mean()),
            entropy=float(sums.entropy) / tokens,
            clip_share=float(sums.clipped) / taught if taught else None,
            sampler_difference_mean=float(sums.sampler.total) / tokens,
            sampler_difference_max=float(sums.sampler.largest),
            sampler_kl=float(sums.sampler.kl) / tokens,
            sampler_clip_share=float(sums.outliers) / taught if taught and corrects else None,
            prompts_sampled=len(rewards),
            truncated_share=1.0 - float(hosts.whole(pool.drawn.ended).mean()),
            completion_tokens_mean=tokens / groups.advantages.size,
            loss=float(sums.loss),
            grad_norm=float(norm),
            learning_rate=float(np.mean(rates)),
            rollout_s=rollout_s,
            update_s=time.perf_counter() - start - rollout_s,
            step_s=time.perf_counter() - start,
        )
        return metrics, shown

    def lessons(self) -> tuple[Lesson, ...]:
        """What the last step was to learn from, prompt by prompt."""
        rows, tokens, mask, rewards, advantages = (hosts.whole(array) for array in self._lessons)
        told = zip(rows, self._texts(tokens, mask), rewards, advantages, strict=True)
        return tuple(lesson(self._ids[row], self._references[row], *of_row) for row, *of_row in told)

    def arrays(self) -> snapshot.Arrays:
        """Every array that an update changes, by its path in the state, until the next update takes its buffers."""
        return taken(self._state, self._reference)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `arrays` gave. Raises ModelError where they are not of this model and optimizer."""
        self._state = given_back(self._state, arrays, self._reference)

    def checkpoint(self) -> Checkpoint:
        """The model as it now is; further updates take its buffers away."""
        return dataclasses.replace(self._checkpoint, model=self._state.model)

    def _prompts(self, indices: Sequence[int], rows: Sequence[Row]) -> Prompts:
        """The prompts of `rows`, heard already where no update changes what the tower makes of them."""
        own = [indices[place] for place in own_rows(self._mesh, len(indices))]
        prompts = placed(self._mesh, Prompts(*stacked(rows, own, self._prompter, self._length)))
        if self._hear is None:
            return prompts
        audio = self._cache.get(indices) if self._cache else None
        if audio is None:
            audio = self._hear(*self._parameters(), prompts)
            if self._cache:
                audio = self._cache.put(indices, np.asarray(audio))
        return prompts._replace(audio=placed(self._mesh, audio), input_features=None)

    def _pool(self, indices: Sequence[int], rows: Sequence[Row]) -> tuple[Pool, tuple[Sample, ...], list[Tally]]:
        """What the step learns from, samples of its first round, and what every round of sampling earned.

        Groups without spread, or without a completion in the loss, give way to those of further rows while rounds are
        left (DAPO, arXiv:2503.14476, section 3.2), and rows that the step has not sampled; where none is better they
        stay, and teach nothing.
        """
        pool, tallied, normaliser = self._sampled(indices, rows, 0)
        shown = self._samples(indices, pool.drawn, tallied, normaliser)
        tallies = [tallied]
        for number in range(1, self.config.rollout.rounds):
            if self._has_signal(pool).all():
                break
            further = further_rows(self._shards.rows, indices, seed=self.config.seed, step=self.step, number=number)
            if not further:
                break
            rows = self._shards.read([further[place] for place in own_rows(self._mesh, len(further))])
            more, tallied, _ = self._sampled(further, rows, number)
            tallies.append(tallied)
            silent = ~hosts.whole(jnp.concatenate([self._has_signal(pool), self._has_signal(more)]))
            pool = self._choose(pool, more, np.argsort(silent, kind="stable")[: len(further)])
        return pool, shown, tallies

    def _sampled(self, indices: Sequence[int], rows: Sequence[Row], number: int) -> tuple[Pool, Tally, str]:
        """A group of completions of each row, in the round `number` (from 0), what they earned in all processes, and
        the digest of the normaliser that they were compared with.

        The rows of a step are numbered through its rounds, those of all processes alike, and so are their keys.
        """
        prompts = self._prompts(indices, rows)
        drawn: Rollout = self._sample(*self._parameters(), prompts, self._state.step, number * len(indices))
        places = own_rows(self._mesh, len(indices))
        own = [indices[place] for place in places]
        verdict, rewards = earned(self._judge, own, drawn, self._checkpoint.tokenizer, self.config)
        here: Any = rewards
        pool = placed(self._mesh, Pool(np.asarray(own), prompts, drawn, here))
        return pool, tally(verdict, places, len(indices)), verdict.normaliser

    def _samples(self, indices: Sequence[int], drawn: Rollout, tallied: Tally, normaliser: str) -> tuple[Sample, ...]:
        """The first prompts of a round, whichever process has them."""
        count = self.config.train.samples_per_step
        tokens, mask = (hosts.whole(array)[:count] for array in (drawn.drawn.tokens, drawn.mask))
        rows = [(self._ids[row], self._references[row]) for row in indices[:count]]
        return samples(self.step + 1, rows, self._texts(tokens, mask), tallied, normaliser)

    def _texts(self, tokens: np.ndarray, mask: np.ndarray) -> list[list[str]]:
        """The text of each completion of each prompt, `tokens` and `mask` being [prompts, group, tokens]."""
        decode = self._checkpoint.tokenizer.decode
        return [
            [decode(ids[counted], skip_special_tokens=True) for ids, counted in zip(*of_prompt, strict=True)]
            for of_prompt in zip(tokens, mask, strict=True)
        ]

    def _has_signal(self, pool: Pool) -> Bool[Array, " prompts"]:
        return has_signal(pool.rewards, self._in_loss(pool))

    def _in_loss(self, pool: Pool) -> Bool[Array, "prompts group"]:
        """Tell which completions the loss takes: all, or with `loss.mask_truncated` those that ended by themselves."""
        ended = pool.drawn.ended
        return ended if self.config.loss.mask_truncated else jnp.ones_like(ended)

    def _groups(self, pool: Pool) -> Groups:
        """The completions and what they are worth; groups that teach nothing are left out of loss and KL, and so are
        truncated completions where the config says so."""
        tokens, mask, limit = pool.drawn.drawn.tokens, pool.drawn.mask, self.config.rollout.max_new_tokens
        settings, rewards, reference = self.config.loss, pool.rewards, None
        if self._reference is not None:
            reference = self._score(self._reference, self._state.graphother, pool.prompts, tokens)
            if settings.kl_estimator == "k1":
                policy = self._score(*self._parameters(), pool.prompts, tokens)
                rewards = rewards - settings.beta * kl_penalty(policy, reference, mask)
        advantages = self._loss.advantages(rewards, mask.sum(axis=-1), settings)
        # The KL alone must not make a group teach: divided by its own deviation it would be as large as any reward.
        advantages = jnp.where(spread(pool.rewards)[:, None], advantages, 0.0)
        taught = mask & teaches(advantages)[:, None, None]
        taught &= self._in_loss(pool)[..., None]
        weights = self._loss.weights(taught.reshape(-1, limit), limit).reshape(taught.shape)
        sampler = pool.drawn.drawn.log_probs
        old = sampler if self.config.loss.iterations > 1 else None  # until the first update has found them
        groups = Groups(tokens, mask, taught, sampler, old, reference, advantages, weights)
        return placed(self._mesh, groups)

    def _parameters(self) -> tuple[Any, Any]:
        return self._state.graphstate, self._state.graphother
