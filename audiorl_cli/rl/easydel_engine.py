"""EasyDeL's own GRPO trainer through the patched collator: the plain path (`engine = "easydel"`).

EasyDeL's are the collator, `generate`, the reference log-probs, the advantages, `grpo_step`, the sharding. Ours is what
its loop does in silence or not at all: fresh random keys from (seed, step), no epoch cap, no swallowed error, nothing
compiled twice, audio demanded wherever the model is called.

The loss is EasyDeL's as it stands, with one update a rollout. There the ratio of new to old policy is 1, so PPO's clip
never acts (and that EasyDeL's takes the maximum for negative advantages never shows): `loss.epsilon` has no effect.
A loss that is no number leaves EasyDeL's state alone, a gradient our optimizer's.
Log-probs are those at temperature 1 over the whole vocabulary: other `rollout` settings sample from another
distribution than the one that is updated.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from easydel.trainers.base_trainer import GenerationResults
from easydel.trainers.group_relative_policy_optimization.grpo_config import GRPOConfig
from easydel.trainers.group_relative_policy_optimization.grpo_trainer import GRPOTrainer
from easydel.trainers.trainer_protocol import TrainerConfigureDataloaderOutput, TrainerConfigureModelOutput
from easydel.utils.compiling_utils import ejit
from flax import nnx
from jaxtyping import Int
from transformers import GenerationConfig

from audiorl_cli import core
from audiorl_cli.bridge import keys, lora
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.mesh import by_rows, everywhere
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import UTTERANCE, prompt_row
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Row, Shards
from audiorl_cli.errors import DataError, InstallError
from audiorl_cli.rl import snapshot
from audiorl_cli.rl.advantages import spread
from audiorl_cli.rl.judge import Judge, Verdict, errors_and_rewards, samples, tally
from audiorl_cli.rl.lesson import Lesson, lesson
from audiorl_cli.rl.metrics import Sample, StepMetrics, finite
from audiorl_cli.rl.optimizer import IsFrozen, adamw, counting, frozen_modules, frozen_parts, held, schedule
from audiorl_cli.rl.state import at_step, given_back, taken


@dataclass(frozen=True)
class Rollout:
    """The completions of a step, host side: texts up to their end, tokens each (its end included), how many ended."""

    texts: list[str]
    tokens: Int[np.ndarray, " completions"]
    ended: int
    seconds: float


class _Arguments(GRPOConfig):
    """GRPOConfig that writes nothing: checkpoints and logs of a run are ours."""

    def ensure_checkpoint_path(self) -> None:
        """Make no folder."""

    def get_streaming_checkpointer(self) -> None:
        """Have no checkpointer."""


class AudioGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose every forward hears. Drive it with `update`: its `train` is EasyDeL's, and is not used."""

    compute_refmodel_logps: Any
    model_state: Any

    def __init__(self, config: RunConfig, checkpoint: Checkpoint, judge: Judge, prompt_length: int) -> None:
        keys.apply()
        self.run = config
        self.judge = judge
        self.is_frozen = frozen_modules(*frozen_parts(config.train.freeze_audio_tower))
        self.rollout: Rollout | None = None
        self.verdict: Verdict | None = None
        self.advantages: Any = None
        self._reference: Any = None
        super().__init__(
            arguments=_arguments(config, prompt_length, self.is_frozen),
            model=checkpoint.model,
            reward_funcs=[self.reward],
            processing_class=checkpoint.tokenizer,
        )
        self._generate = self._compiled_generate()

    @property
    def reference(self) -> Any:
        """The parameters of the reference model; None where it has no say."""
        return self._reference

    @property
    def ref_state(self) -> Any:
        """The reference model: the policy with the parameters that training begins from, out of reach of every update.

        With LoRA these are the adapters alone: no base is held twice. Where `loss.beta` gives the reference no say, the
        policy stands in for it, and the copy is given up: what EasyDeL asks of it then is its shapes.
        """
        policy = self.model_state
        return policy if self._reference is None else policy.replace(graphstate=self._reference)

    @ref_state.setter
    def ref_state(self, state: Any) -> None:
        self._reference = state.graphstate if self.run.loss.beta else None

    def configure_dataloaders(self) -> TrainerConfigureDataloaderOutput:
        """No loader: the run says which rows a step takes, over as many epochs as its steps need."""
        return TrainerConfigureDataloaderOutput(
            dataloader_train=None, max_training_steps=self.run.train.steps, dataloader_eval=None, max_evaluation_steps=0
        )

    def configure_model(self) -> TrainerConfigureModelOutput:
        """The optimizer of `OptimizerConfig`, the frozen parameters out of it."""
        return TrainerConfigureModelOutput(
            model=self.model,
            tx=counting(adamw(self.run.optimizer, self.run.train.steps, self.is_frozen)),
            scheduler=schedule(self.run.optimizer, self.run.train.steps),
            config=self.model.config,
        )

    def configure_functions(self) -> Any:
        """EasyDeL's, but the reference model demands audio, and is not asked where `loss.beta` gives it no say."""
        functions = super().configure_functions()
        score = self.compute_refmodel_logps
        width = self.run.rollout.max_new_tokens

        def heard(state: Any, other: Any, ids: Any, mask: Any, model_kwargs: Mapping[str, Any]) -> Any:
            _demand_audio(model_kwargs, "reference log-probs")
            if self.run.loss.beta == 0.0:
                return jnp.zeros((ids.shape[0], width), jnp.float32)
            return score(state, other, ids, mask, model_kwargs)

        self.compute_refmodel_logps = heard
        return functions

    def _create_checkpointer(self) -> None:
        return None

    def _configure_generation_function(self) -> None:
        """None of EasyDeL's: each samples with the same key at every step, and is compiled anew at each."""

    def _get_preprocess_transform(self) -> None:
        return None  # rows come tokenised

    def generate_unified(self, **inputs: Any) -> GenerationResults:
        """EasyDeL's `generate` under a key of (seed, step), its texts ended where the completion ends.

        Stands for EasyDeL's own, which samples with one fixed key, throws its compiled function away after every call,
        and decodes every audio placeholder of every prompt and completion to text.
        """
        start = time.perf_counter()
        state, audio = inputs["state"], inputs["model_kwargs"]
        _demand_audio(audio, "rollout")
        prompt_ids, prompt_mask = jnp.asarray(inputs["input_ids"]), jnp.asarray(inputs["attention_mask"])
        sequences = self._generate(
            state.graphstate,
            state.graphother,
            state.step,
            prompt_ids,
            prompt_mask,
            audio[core.INPUT_FEATURES],
            audio[core.FEATURE_ATTENTION_MASK],
        )
        completion_ids = sequences[:, prompt_ids.shape[1] :]
        completion_mask = self._make_attn_mask(completion_ids)
        ids, mask = np.asarray(completion_ids), np.asarray(completion_mask).astype(bool)
        texts = self.processing_class.batch_decode(
            [row[kept] for row, kept in zip(ids, mask, strict=True)], skip_special_tokens=True
        )
        ended = int((np.isin(ids, self._eos_token_id) & mask).any(axis=1).sum())
        self.rollout = Rollout(texts, mask.sum(axis=1), ended, time.perf_counter() - start)
        return GenerationResults(
            generation_results=texts,
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            sequences=sequences,
            completion_ids=completion_ids,
            completion_mask=completion_mask,
            decoded_prompts=None,
            completion_prompts=None,
            text=texts,
            reasoning=[None] * len(texts),
            tool_calls=[None] * len(texts),
            raw_text=texts,
        )

    def reward(self, completions: list[str], batch: Mapping[str, Any]) -> list[float]:
        """What each completion earns against the transcript of its prompt's utterance."""
        self.verdict = self.judge(np.asarray(batch[UTTERANCE]).tolist(), completions)
        return [float(reward) for reward in self.verdict.rewards.flat]

    def _preprocess_batch_input(self, state: Any, batch: Mapping[str, Any], is_train: bool) -> tuple[Any, Any]:
        _demand_rows(batch)
        scored, told = super()._preprocess_batch_input(state=state, batch=batch, is_train=is_train)
        _demand_audio(scored, "policy step")
        # Such a group has nothing to teach. Left in, float residue of its mean would prefer one completion, and its
        # KL, once no group is left to outweigh it, would be blown up to whole steps by Adam's division.
        kept = jnp.asarray(np.repeat(~self.zero_spread(), self.run.rollout.group_size))
        self.advantages = scored["advantages"] = jnp.where(kept, scored["advantages"], 0.0)
        scored["completion_mask"] = scored["completion_mask"] * kept[:, None]
        scored["num_items_in_batch"] = scored["completion_mask"].sum()
        return scored, told

    def zero_spread(self) -> Any:
        """Which groups of this step earned one and the same reward throughout, [prompts] bool."""
        if self.verdict is None:
            raise AssertionError("completions are judged first")
        return ~np.asarray(spread(jnp.asarray(self.verdict.rewards, jnp.float32)))

    def update(self, batch: Mapping[str, Any]) -> Any:
        """One step of EasyDeL's: rollout, rewards, reference, policy update. Returns its LossMetrics.

        Errors of any kind are the caller's to see; the state is then that of before the step, or gone with its buffers.
        """
        with self.mesh:
            scored, _ = self._preprocess_batch_input(state=self.model_state, batch=batch, is_train=True)
            self.model_state, metrics = self.sharded_training_step_function(
                self.model_state, scored, *self._train_shared_fn_extra_args, *self._train_shared_fn_static_args
            )
        return metrics

    def _compiled_generate(self) -> Any:
        graphdef, seed = self.model_state.graphdef, self.run.seed
        rows, whole = by_rows(self.model.mesh), everywhere(self.model.mesh)
        rollout = self.run.rollout
        sampling = GenerationConfig(
            do_sample=True,
            num_beams=1,
            num_return_sequences=rollout.group_size,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            eos_token_id=self._eos_token_id,
            pad_token_id=self._pad_token_id,
        )

        def generate(graphstate: Any, other: Any, step: Any, ids: Any, mask: Any, features: Any, frames: Any) -> Any:
            model = nnx.merge(graphdef, graphstate, other)
            with model.mesh:
                return model.generate(
                    ids,
                    attention_mask=mask,
                    generation_config=sampling,
                    prng_key=jax.random.fold_in(jax.random.PRNGKey(seed), step),
                    **{core.INPUT_FEATURES: features, core.FEATURE_ATTENTION_MASK: frames},
                ).sequences

        states = self.state_shardings
        given = (states.graphstate, states.graphother, whole, *[rows] * 4)
        # Its trainer asks for completions whole, to score and to learn from.
        return ejit(generate, in_shardings=given, out_shardings=whole)


class EasyDeLEngine:
    """One model under training: rows in, a step's metrics and samples out."""

    def __init__(self, config: RunConfig, checkpoint: Checkpoint, shards: Shards) -> None:
        parts = frozen_parts(config.train.freeze_audio_tower)
        checkpoint = dataclasses.replace(
            checkpoint, model=lora.adapted(checkpoint.model, config.lora, config.seed, parts)
        )
        self.config, self._checkpoint = config, checkpoint
        self._prompter = Prompter(checkpoint.tokenizer, config.prompt)
        # One length for the whole run, so that nothing is compiled twice and a resumed run computes the same.
        self._length = max(self._prompter.length(frames) for frames in set(shards.column("num_frames")))
        self._trainer = AudioGRPOTrainer(config, checkpoint, Judge.of(config.reward, shards), self._length)
        self._rows: list[tuple[str, str]] = []
        self._collate = self._trainer.create_collect_function(self._length, truncation_mode="keep_end")

    @property
    def mesh(self) -> Any:
        """The devices."""
        return self._trainer.model.mesh

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self._trainer.model_state.step)

    def update(self, indices: Sequence[int], rows: Sequence[Row]) -> tuple[StepMetrics, tuple[Sample, ...]]:
        """One step on `rows`, whose numbers in the shards are `indices`."""
        start = time.perf_counter()
        trainer, step = self._trainer, self.step + 1
        self._rows = [(row.id, row.text) for row in rows]
        batch = self.batch(indices, rows)
        told = jax.device_get(trainer.update(batch))
        seconds = time.perf_counter() - start
        rollout, verdict, flat = trainer.rollout, trainer.verdict, trainer.zero_spread()
        if rollout is None or verdict is None:
            raise AssertionError("update leaves a rollout and a verdict")
        norms = jax.tree_util.tree_leaves(told.grad_norms)
        tallied = tally(verdict, range(len(rows)), len(rows))
        metrics = StepMetrics(
            step=step,
            reward_mean=float(verdict.rewards.mean()),
            reward_std=float(verdict.rewards.std(axis=1).mean()),
            **errors_and_rewards([tallied]),
            kl=float(told.other_metrics["mean_kl"]) if self.config.loss.beta and not flat.all() else None,
            entropy=None,
            clip_share=None,
            sampler_difference_mean=None,
            sampler_difference_max=None,
            sampler_kl=None,
            sampler_clip_share=None,
            prompts_sampled=len(rows),
            zero_spread_share=float(flat.mean()),
            truncated_share=1.0 - rollout.ended / len(rollout.texts),
            completion_tokens_mean=float(rollout.tokens.mean()),
            loss=float(told.loss),
            grad_norm=float(np.linalg.norm(np.asarray(norms, np.float32))),
            learning_rate=float(told.learning_rate),
            rollout_s=rollout.seconds,
            update_s=seconds - rollout.seconds,
            step_s=seconds,
        )
        if not finite(metrics):  # nothing was learnt, and EasyDeL counts it or not, as it was the gradient or the loss
            counts = self.config.train.on_nonfinite == "skip"
            state = at_step(trainer.model_state, step if counts else step - 1)
            trainer.model_state = state.replace(opt_state=state.opt_state._replace(step=jnp.copy(state.step)))
        count = self.config.train.samples_per_step
        shown = samples(step, self._rows[:count], verdict.texts[:count], tallied, verdict.normaliser)
        return metrics, shown

    def lessons(self) -> tuple[Lesson, ...]:
        """What the last step was to learn from, prompt by prompt."""
        verdict = self._trainer.verdict
        if verdict is None:
            raise AssertionError("a step leaves a verdict")
        advantages = np.asarray(self._trainer.advantages).reshape(verdict.rewards.shape)
        learnt = zip(self._rows, verdict.texts, verdict.rewards, advantages, strict=True)
        return tuple(lesson(*row, texts, rewards, worth) for row, texts, rewards, worth in learnt)

    def batch(self, indices: Sequence[int], rows: Sequence[Row]) -> Any:
        """`rows` as EasyDeL's collator gives them to its trainer."""
        return self._collate(
            [prompt_row(row, index, self._prompter, self._length) for index, row in zip(indices, rows, strict=True)]
        )

    def arrays(self) -> snapshot.Arrays:
        """Every array that an update changes, by its path in the state, until the next update takes its buffers."""
        return taken(self._trainer.model_state, self._trainer.reference)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `arrays` gave. Raises ModelError where they are not of this model and optimizer."""
        trainer = self._trainer
        trainer.model_state = given_back(trainer.model_state, arrays, trainer.reference)

    def checkpoint(self) -> Checkpoint:
        """The model as it now is; further updates take its buffers away."""
        return dataclasses.replace(self._checkpoint, model=self._trainer.model_state.model)


def _arguments(config: RunConfig, prompt_length: int, is_frozen: IsFrozen) -> _Arguments:
    return _Arguments(
        model_name="audiorl",
        max_training_steps=config.train.steps,
        total_batch_size=config.train.batch_size,
        max_prompt_length=prompt_length,
        max_completion_length=config.rollout.max_new_tokens,
        num_return_sequences=config.rollout.group_size,
        loss_type=config.loss.kind,
        # Dr. GRPO divides by no deviation; left alone, EasyDeL's does.
        scale_rewards="none" if config.loss.kind == "dr_grpo" else "group",
        beta=config.loss.beta,
        epsilon=config.loss.epsilon,
        epsilon_high=config.loss.epsilon_high,
        # Made for quantisation, this is applied to the parameters inside the gradient and nowhere else: what is
        # frozen is not differentiated at all.
        straight_through_emulator=partial(held, is_frozen=is_frozen),
        use_grain=False,  # its collator takes rows one by one; the other takes the batch
        use_wandb=False,
        report_metrics=False,
        performance_mode=True,
        track_memory=False,
        resume_if_possible=False,  # it looks in a folder of its own, and starts afresh where that fails
        do_last_save=False,
        save_tpu_preemption_checkpoints=False,
    )


def _demand_rows(batch: Mapping[str, Any]) -> None:
    features, frames = batch.get(core.INPUT_FEATURES), batch.get(core.FEATURE_ATTENTION_MASK)
    rows = batch["input_ids"].shape[0]
    if features is None or frames is None or features.shape[0] != rows or frames.shape[0] != rows:
        raise DataError(
            "batch", expected=f"audio in each of its {rows} rows", got="rows without audio", fix="Run prep."
        )
    silent = np.flatnonzero(np.asarray(frames).sum(axis=1) == 0)
    if silent.size:
        raise DataError(f"batch row {silent[0]}", expected="at least one frame of audio", got="none", fix="Run prep.")


def _demand_audio(model_kwargs: Mapping[str, Any] | None, where: str) -> None:
    missing = sorted(key for key in core.AUDIO_KEYS if model_kwargs is None or model_kwargs.get(key) is None)
    if missing:
        raise InstallError(
            where,
            expected=", ".join(sorted(core.AUDIO_KEYS)),
            got=f"no {', '.join(missing)}",
            fix="Run audiorl doctor.",
        )
