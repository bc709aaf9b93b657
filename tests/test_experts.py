"""The products over experts against EasyDeL's own block: outputs, gradients, the experts that are chosen."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from audiorl_cli.bridge import experts
from audiorl_cli.bridge.configuration import easydel_config
from audiorl_cli.bridge.thinker import AudioTextModel
from audiorl_cli.bridge.tiny import tiny_config
from audiorl_cli.bridge.tokenizer import tiny_tokenizer
from audiorl_cli.config import Dtype, MeshConfig

ROWS, TOKENS = 3, 401  # no multiple of what a ragged product is filled up to
# Differences as a share of the largest value: float32 sums in another order; of bfloat16, one or two roundings.
CLOSE = {"float32": 1e-6, "bfloat16": 2**-7}


class Experts:
    """A block of experts as the thinker sets it up, and inputs by which it chooses decidedly."""

    def __init__(self, count: int, chosen: int, normalised: bool, dtype: Dtype, mesh: MeshConfig | None = None) -> None:
        tokenizer = tiny_tokenizer()
        thinker = tiny_config(tokenizer)
        thinker["text_config"] |= {"num_hidden_layers": 1, "num_experts": count, "norm_topk_prob": normalised}
        thinker["text_config"]["num_experts_per_tok"] = chosen
        config = easydel_config(thinker, dtype, mesh or MeshConfig()).text_config
        model = AudioTextModel(config, jnp.dtype(dtype), jnp.dtype(dtype), rngs=nnx.Rngs(0))
        self.mesh = model.mesh
        block = model.layers[0].mlp
        block.gate.kernel[...] *= 10
        self.graph, self.state = nnx.split(block)
        draw = jax.random.normal(jax.random.key(1), (2, ROWS, TOKENS, config.hidden_size))
        self.hidden, self.slope = draw.astype(dtype)

    def call(self, function: Any) -> tuple[Any, Any, Any]:
        """What `function` of block and inputs gives, and the gradients of weights and inputs."""

        @jax.jit
        def run(state: Any, hidden: Any, slope: Any) -> Any:
            with self.mesh:
                output, back = jax.vjp(lambda s, h: function(nnx.merge(self.graph, s), h), state, hidden)
                return output, *back(slope)

        return run(self.state, self.hidden, self.slope)  # type: ignore[no-any-return]


def easydels(block: Any, hidden: Any) -> Any:
    return block(hidden)[0]


def check_close(found: Any, expected: Any, share: float) -> None:
    found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * largest)


@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "as they are"])
@pytest.mark.parametrize("chosen", [1, 2])
@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", [experts.dense, experts.tiled, experts.grouped])
def test_outputs_and_gradients_are_easydels(
    function: Any, count: int, chosen: int, normalised: bool, dtype: Dtype
) -> None:
    block = Experts(count, chosen, normalised, dtype)
    output, weights, inputs = block.call(function)
    expected, its_weights, its_inputs = block.call(easydels)
    assert output.dtype == expected.dtype == dtype
    check_close(output, expected, CLOSE[dtype])
    check_close(inputs, its_inputs, 4 * CLOSE[dtype])  # a sum over the experts and over both of their products
    ours, theirs = (dict(nnx.to_flat_state(state)) for state in (weights, its_weights))
    assert len(ours) == 4  # gate; and of the experts gate, up, down
    for path, gradient in theirs.items():
        if chosen == 1 and normalised and path[0] == "gate":  # a share of 1 whatever the gate says
            assert float(jnp.abs(ours[path][...]).max()) < 1e-3
        else:
            check_close(ours[path][...], gradient[...], 4 * CLOSE[dtype])


def test_tiles_hold_where_all_tokens_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two experts have every token and the others none: tiles of nobody, and none with room left."""
    monkeypatch.setattr(experts, "_TILE", 100)
    block = Experts(6, 2, True, "float32")
    with block.mesh:
        layer = nnx.merge(block.graph, block.state)
    layer.gate.kernel[...] = jnp.zeros_like(layer.gate.kernel[...]).at[0, 1].set(1e3).at[0, 4].set(9e2)
    block.state = nnx.state(layer)
    block.hidden = block.hidden.at[..., 0].set(1)
    for found, expected in zip(block.call(experts.tiled)[::2], block.call(easydels)[::2], strict=True):
        check_close(found, expected, 4 * CLOSE["float32"])


@pytest.mark.parametrize(
    ("backend", "tokens", "expected"),
    [("cpu", 400, "tiles"), ("cpu", 1, "all"), ("gpu", 400, "all"), ("tpu", 400, "groups")],
)
def test_how_they_are_multiplied_goes_by_device_and_tokens(
    monkeypatch: pytest.MonkeyPatch, backend: str, tokens: int, expected: str
) -> None:
    block = Experts(4, 2, True, "float32")
    monkeypatch.setattr(experts, "platform", lambda _: backend)
    with block.mesh:
        program = str(
            jax.make_jaxpr(lambda s, h: experts.mixed(nnx.merge(block.graph, s), h))(
                block.state, block.hidden[:, :tokens]
            )
        )
    found = "groups" if "ragged_dot" in program else "tiles" if "scan[" in program else "all"
    assert found == expected


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
@pytest.mark.parametrize("mesh", ["data=2, tensor=2", "fsdp=2, expert=2"])
def test_devices_share_the_work(mesh: str, backend: str) -> None:
    """Rows that they divide, and one more, which is everyone's."""
    program = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from audiorl_cli.bridge.quiet import silence; silence()
import test_experts as t; from audiorl_cli.bridge import experts; from audiorl_cli.config import MeshConfig
experts.platform = lambda _: {backend!r}
for t.ROWS in (4, 5):
    block = t.Experts(4, 2, True, "float32", MeshConfig(**dict({mesh})))
    for found, expected in zip(block.call(experts.mixed), block.call(experts.dense)):
        for path in t.nnx.to_flat_state(found).paths if isinstance(found, t.nnx.State) else [None]:
            one, other = (x if path is None else dict(t.nnx.to_flat_state(x))[path][...] for x in (found, expected))
            t.check_close(one, other, 4 * t.CLOSE["float32"])
print("equal", len(block.mesh.devices.ravel()))
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.stdout.splitlines()[-1:] == ["equal 4"], run.stderr[-2000:]
