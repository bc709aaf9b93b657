"""A layer's experts, ours (`bridge/experts.py`) against EasyDeL's own block: forward, and with the gradient.

    python benchmarks/experts.py [--size small|large] [--dtype float32|bfloat16] [--tokens 1 64 4096]

One layer of `bench_model.py`, on whatever device JAX finds; medians of 10 calls after one to compile. JSON out, in ms;
`teraflops`: what the chosen experts alone have to multiply, over our time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from audiorl_cli.bridge import quiet

quiet.silence()

import bench_model  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from easydel.modules.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeTextSparseBlock  # noqa: E402
from flax import nnx  # noqa: E402

from audiorl_cli.bridge import experts  # noqa: E402
from audiorl_cli.bridge.configuration import easydel_config, thinker_config  # noqa: E402
from audiorl_cli.bridge.thinker import AudioTextModel  # noqa: E402
from audiorl_cli.config import MeshConfig  # noqa: E402

_CALLS: Final = 10


def main() -> None:
    """Time both for each count of tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 64, 4096])
    arguments = parser.parse_args()
    size = bench_model.LARGE if arguments.size == "large" else bench_model.SMALL
    thinker = thinker_config(bench_model.config(size, layers=1), "bench_model")
    config = easydel_config(thinker, arguments.dtype, MeshConfig()).text_config
    dtype = jnp.dtype(arguments.dtype)
    model = AudioTextModel(config, dtype, dtype, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model.layers[0].mlp)
    found = {}
    for tokens in arguments.tokens:
        hidden = jax.random.normal(jax.random.key(0), (1, tokens, size.hidden), dtype)
        took = {}
        for name, function in (("audiorl", experts.mixed), ("easydel", _easydels)):
            took[name] = _times(function, graph, state, hidden, model.mesh)
        least = 6 * size.hidden * size.expert_width * size.chosen * tokens
        found[tokens] = {
            "ms": {name: {part: round(1e3 * seconds, 2) for part, seconds in of.items()} for name, of in took.items()},
            "ratio": {part: round(took["easydel"][part] / took["audiorl"][part], 2) for part in took["audiorl"]},
            "teraflops": round(least / took["audiorl"]["forward"] / 1e12, 2),
        }
    device = jax.devices()[0].device_kind
    print(json.dumps({"device": device, "size": arguments.size, "dtype": arguments.dtype, "tokens": found}, indent=2))


def _easydels(block: Any, rows: Any) -> Any:
    """What EasyDeL makes of them by itself, whatever the precision."""
    return Qwen3OmniMoeTextSparseBlock.__call__(block, rows)[0]


def _times(function: Callable[[Any, Any], Any], graph: Any, state: Any, hidden: Any, mesh: Any) -> dict[str, float]:
    def forward(state: Any, hidden: Any) -> Any:
        return function(nnx.merge(graph, state), hidden)

    def loss(state: Any, hidden: Any) -> Any:
        return jnp.square(forward(state, hidden).astype(jnp.float32)).sum()

    with mesh:
        parts = {"forward": jax.jit(forward), "gradient": jax.jit(jax.grad(loss, argnums=(0, 1)))}
        return {name: _median(partial(part, state, hidden)) for name, part in parts.items()}


def _median(call: Callable[[], Any]) -> float:
    jax.block_until_ready(call())  # type: ignore[no-untyped-call]
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        jax.block_until_ready(call())  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
