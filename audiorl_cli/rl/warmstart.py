"""The supervised start: cross-entropy on the transcripts, so that reinforcement has something to improve."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from audiorl_cli import core
from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.bridge import lora
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.mesh import demand_rows, everywhere, own_rows, placed
from audiorl_cli.bridge.prompt import Prompter, target
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.bridge.weights import ready, trained
from audiorl_cli.config import RunConfig
from audiorl_cli.data.shards import Row, Shards, open_shards
from audiorl_cli.data.store import Place
from audiorl_cli.rl import folder, loop, snapshot
from audiorl_cli.rl.card import card
from audiorl_cli.rl.lesson import Lesson
from audiorl_cli.rl.loop import RunResult
from audiorl_cli.rl.metrics import Sample, Validation, WarmstartMetrics, finite
from audiorl_cli.rl.optimizer import IsFrozen, adamw, apply_gradients, frozen_modules, frozen_parts, held
from audiorl_cli.rl.state import at_step, given_back, taken
from audiorl_cli.rl.validation import Validator, held_out
from audiorl_cli.text import normaliser

_PROMPT = ("input_ids", "attention_mask", core.INPUT_FEATURES, core.FEATURE_ATTENTION_MASK)


def warmstart(
    config: RunConfig,
    data: Place,
    model: str,
    out: Path,
    *,
    on_step: Callable[[WarmstartMetrics], None],
    on_stop: Callable[[], None] = lambda: None,
    on_validation: Callable[[Validation, Validation], None] = lambda one, best: None,
    on_saved: Callable[[], None] = lambda: None,
    validation: Place | None = None,
    resume: bool = True,
    tensorboard: bool = False,
    wandb: str | None = None,
) -> RunResult:
    """Train `model` on the transcripts of the shards in `data` into the run folder `out`, by `config.warmstart`.

    Resumes, validates, logs and raises as `rl.run.train` does. Of the config it uses `warmstart`, `prompt`, `lora`,
    `mesh`, `seed`, `validation`, of `train` what is said there of dtype and checkpoints, and of `optimizer` all but
    the rate and its schedule.
    """
    shards = open_shards(data)
    apart = held_out(validation, shards)
    digest = normaliser(config.reward.normaliser).digest if apart else ""
    origin = folder.Origin("warmstart", shards.digest, model, False, digest, apart.digest if apart else "")
    settings = config.warmstart
    enough = settings.stop_accuracy or math.inf
    plan = loop.Plan(
        settings.steps,
        settings.batch_size,
        config.seed,
        config.train.save_every,
        config.train.keep,
        config.train.on_nonfinite,
        config.validation.every,
        config.validation.patience,
        enough=lambda told: told["token_accuracy_share"] >= enough,
    )

    def begin() -> WarmstartEngine:
        demand_rows(config.mesh, warmstart__batch_size=settings.batch_size)
        kept = config.train
        loaded = checkpoints.load(model, dtype=kept.dtype, masters=kept.master_weights, mesh=config.mesh)
        return WarmstartEngine(config, loaded, shards)

    with folder.opened(out, config, origin, resume=resume):
        return loop.run(
            out,
            plan,
            shards,
            begin,
            on_step,
            export=config.train.export,
            command=origin.kind,
            card=partial(card, config, origin, shards),
            validator=Validator(config, apart) if apart else None,
            on_stop=on_stop,
            on_validation=on_validation,
            on_saved=on_saved,
            tensorboard=tensorboard,
            wandb=wandb,
        )


class WarmstartEngine:
    """One model under supervised training. Every batch has the same shapes: one compilation a run."""

    def __init__(self, config: RunConfig, checkpoint: Checkpoint, shards: Shards) -> None:
        settings = config.warmstart
        parts = frozen_parts(settings.freeze_audio_tower)
        model = lora.adapted(checkpoint.model, config.lora, config.seed, parts)
        self._checkpoint = dataclasses.replace(checkpoint, model=model)
        self._tokenizer = checkpoint.tokenizer
        self._prompter = Prompter(checkpoint.tokenizer, config.prompt)
        self._prompt_length = max(self._prompter.length(frames) for frames in set(shards.column("num_frames")))
        self._references, self._ids = shards.texts(), shards.column("id")
        self._target_length = max(len(target(self._tokenizer, text)) for text in self._references)
        self._learning_rate, self._stops = settings.learning_rate, config.train.on_nonfinite == "stop"
        self._lessons: tuple[Lesson, ...] = ()
        frozen = frozen_modules(*parts)
        constant = dataclasses.replace(
            config.optimizer, learning_rate=settings.learning_rate, schedule="constant", warmup_steps=0
        )
        tx = adamw(constant, settings.steps, frozen)
        # EasyDeL's state puts parameters and optimizer on the mesh; each update gives the buffers of the last away.
        self._state = trained(model, tx)
        self._mesh = model.mesh
        told = everywhere(self._mesh)
        self._update = jax.jit(_updater(frozen), donate_argnums=0, out_shardings=(self._state.shardings, told))

    @property
    def mesh(self) -> Any:
        """The devices, of all processes."""
        return self._mesh

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self._state.step)

    def update(self, indices: Sequence[int], rows: Sequence[Row]) -> tuple[WarmstartMetrics, tuple[Sample, ...]]:
        """One update on the rows of `indices`, of which this process has `rows`; it has no samples to show."""
        start, step = time.perf_counter(), self.step + 1
        self._lessons = tuple(Lesson(self._ids[row], self._references[row]) for row in indices)
        own = [indices[place] for place in own_rows(self.mesh, len(indices))]
        prompts = [
            prompt_row(row, number, self._prompter, self._prompt_length) for number, row in zip(own, rows, strict=True)
        ]
        batch = {key: np.stack([prompt[key] for prompt in prompts]) for key in _PROMPT}
        lesson = placed(self.mesh, (batch, *self._targets([row.text for row in rows])))
        self._state, told = self._update(self._state, *lesson)
        loss, accuracy, norm = (float(number) for number in jax.device_get(told))
        seconds = time.perf_counter() - start
        metrics = WarmstartMetrics(step, loss, accuracy, norm, self._learning_rate, seconds)
        if self._stops and not finite(metrics):
            self._state = at_step(self._state, step - 1)
        return metrics, ()

    def lessons(self) -> tuple[Lesson, ...]:
        """The rows of the last update, in all processes."""
        return self._lessons

    def arrays(self) -> snapshot.Arrays:
        """Every array that an update changes, by its path in the state, until the next update takes its buffers."""
        return taken(self._state)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `arrays` gave. Raises ModelError where they are not of this model and optimizer."""
        self._state = given_back(self._state, arrays)

    def checkpoint(self) -> Checkpoint:
        """The model as it now is; further updates take its buffers away."""
        return dataclasses.replace(self._checkpoint, model=self._state.model)

    def _targets(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "rows tokens"], Int[np.ndarray, "rows tokens"]]:
        """Transcript and end of each row, padded on the right, and 1 where a token is not padding."""
        targets = [target(self._tokenizer, text) for text in texts]
        padded = np.full((len(texts), self._target_length), self._tokenizer.pad_token_id, np.int32)
        counted = np.zeros_like(padded)
        for row, ids in enumerate(targets):
            padded[row, : len(ids)], counted[row, : len(ids)] = ids, 1
        return padded, counted


def _updater(frozen: IsFrozen) -> Any:
    """(state, prompts, targets, counted) -> (state, (loss, accuracy, gradient norm))."""

    def update(state: Any, batch: Any, targets: Any, counted: Any) -> tuple[Any, Any]:
        def loss_of(params: Any) -> tuple[Any, Any]:
            logits = _target_logits(ready(state.merge(held(params, frozen))), batch, targets, counted)
            nats = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
            right = (logits.argmax(axis=-1) == targets) * counted
            total = counted.sum()
            return (nats * counted).sum() / total, right.sum() / total

        (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.graphstate)
        norm = optax.tree.norm(gradients)
        # The optimizer takes no gradient that is no number (rl/optimizer.py).
        sound = jax.tree_util.tree_map(lambda leaf: jnp.where(jnp.isfinite(loss), leaf, jnp.nan), gradients)
        return apply_gradients(state, sound), (loss, accuracy, norm)

    return update


def _target_logits(
    model: Any,
    batch: Mapping[str, Array],
    targets: Int[Array, "rows tokens"],
    counted: Int[Array, "rows tokens"],
) -> Float[Array, "rows tokens vocab"]:
    """Logits that foretell each target token: those at the prompt's last token and at every target but the last."""
    prompt_length = batch["input_ids"].shape[1]
    with model.mesh:
        hidden = model(
            input_ids=jnp.concatenate([batch["input_ids"], targets], axis=1),
            attention_mask=jnp.concatenate([batch["attention_mask"], counted], axis=1),
            input_features=batch[core.INPUT_FEATURES],
            feature_attention_mask=batch[core.FEATURE_ATTENTION_MASK],
            apply_lm_head=False,
        ).last_hidden_state
        logits: Float[Array, "rows tokens vocab"] = model.apply_lm_head(hidden[:, prompt_length - 1 : -1])
    return logits
