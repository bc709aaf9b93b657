"""What may be drawn, with which probability, and from which random keys."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiorl_cli.bridge.sampling import Drawn, kept, sampled
from audiorl_cli.config import RolloutConfig

CHANCES = [0.4, 0.3, 0.15, 0.1, 0.05]
PLAIN = RolloutConfig()


def left(**settings: Any) -> list[int]:
    """Which of five tokens of the probabilities above are left to draw from."""
    logits = kept(jnp.log(jnp.asarray(CHANCES)), dataclasses.replace(PLAIN, **settings))
    return [token for token, finite in enumerate(np.isfinite(np.asarray(logits))) if finite]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.69}, [0, 1]),  # 0.4 + 0.3 reach it
        ({"top_p": 0.71}, [0, 1, 2]),
        ({"top_p": 0.01}, [0]),
        ({"min_p": 0.3}, [0, 1, 2]),  # at least 0.12
        ({"top_k": 2, "top_p": 0.56}, [0]),  # of 0.7 left, 0.4 is 0.571
        ({"top_k": 3, "min_p": 0.5}, [0, 1]),
    ],
)
def test_what_top_k_top_p_and_min_p_leave(settings: dict[str, float], expected: list[int]) -> None:
    assert left(**settings) == expected


def test_tokens_as_likely_as_the_last_one_left_are_left() -> None:
    logits = jnp.log(jnp.asarray([0.4, 0.2, 0.2, 0.2]))
    assert np.isfinite(kept(logits, dataclasses.replace(PLAIN, top_k=2))).sum() == 4


def draw(prompts: int = 3, group: int = 64, *, place: int = 0, media: tuple[int, ...] = (), **settings: Any) -> Drawn:
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(CHANCES)), (prompts, group, 5))
    keys = jax.random.split(jax.random.key(0), 3)[:prompts]
    sampling = dataclasses.replace(PLAIN, **settings)
    return sampled(logits, jnp.asarray(place), keys=keys, media=media, sampling=sampling)


def test_log_probs_are_those_of_what_was_left() -> None:
    drawn = draw(top_k=2)
    assert set(np.unique(drawn.tokens)) == {0, 1}
    of_left = np.where(drawn.tokens == 0, math.log(4 / 7), math.log(3 / 7))
    np.testing.assert_allclose(drawn.log_probs, of_left, rtol=1e-5)


def test_temperature_sharpens() -> None:
    drawn = draw(temperature=0.5)
    # Squares 0.16, 0.09, 0.0225, 0.01, 0.0025 over their sum 0.285.
    chances = np.asarray([0.16, 0.09, 0.0225, 0.01, 0.0025]) / 0.285
    np.testing.assert_allclose(drawn.log_probs, np.log(chances)[np.asarray(drawn.tokens)], rtol=1e-5)


def test_placeholders_are_never_drawn() -> None:
    drawn = draw(media=(0, 1))
    assert set(np.unique(drawn.tokens)) == {2, 3, 4}
    of_left = np.asarray(CHANCES)[np.asarray(drawn.tokens)] / 0.3
    np.testing.assert_allclose(np.exp(drawn.log_probs), of_left, rtol=1e-5)


def test_tokens_come_as_often_as_they_are_likely() -> None:
    counts = np.bincount(np.asarray(draw(3, 4096).tokens).ravel(), minlength=5) / (3 * 4096)
    np.testing.assert_allclose(counts, CHANCES, atol=0.02)


def test_a_prompt_draws_the_same_whatever_stands_beside_it() -> None:
    np.testing.assert_array_equal(draw(3).tokens[:1], draw(1).tokens)


def test_prompts_completions_and_places_draw_differently() -> None:
    drawn = np.asarray(draw(3).tokens)
    assert (drawn[0] != drawn[1]).any()
    assert len(np.unique(drawn[0])) > 2
    assert (drawn != np.asarray(draw(3, place=1).tokens)).any()
