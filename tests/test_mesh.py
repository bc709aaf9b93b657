"""Meshes of eight devices compute what one does, each device its part of it; a mesh that cannot work is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tones import small_config, tone_shards

from audiorl_cli.bridge import checkpoint, mesh
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.mesh import axis_dims, demand_divisible, demand_rows
from audiorl_cli.bridge.tiny import tiny_config
from audiorl_cli.bridge.tokenizer import tiny_tokenizer
from audiorl_cli.config import MeshConfig
from audiorl_cli.errors import ConfigError
from audiorl_cli.rl import run

FIRST, SECOND = "first", "second"  # data 2 x fsdp 2 x tensor 2, two prompts at a time a device; fsdp 2 x expert 4


class Run:
    """What one of the runs of tests/meshes.py left."""

    def __init__(self, path: Path) -> None:
        self.places: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        with np.load(path.with_suffix(".npz")) as file:
            self.computed = {name.replace("|", "/"): file[name] for name in file.files}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("meshes")
    words = [sys.executable, str(Path(__file__).with_name("meshes.py")), str(tone_shards(folder, rows=8)), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: Run(folder / name) for name in ("one", FIRST, SECOND)}


def apart(found: Run, expected: Run, part: str) -> float:
    """The largest difference of any array whose name has `part`, of the largest number in that array, or in a
    thousandth of all of them where it is next to nothing."""
    names = [name for name in found.computed if part in name and found.computed[name].size]
    assert len(names) == 15
    least = 1e-3 * max(float(np.abs(expected.computed[name]).max()) for name in names)
    return max(
        float(np.abs(found.computed[name] - expected.computed[name]).max())
        / max(float(np.abs(expected.computed[name]).max()), least)
        for name in names
    )


# The second goes on from what the one device had after two steps.
STEPS = [(FIRST, 1), (FIRST, 2), (SECOND, 3)]


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_loss_gradients_and_weights_are_those_of_one_device(ran: dict[str, Run], name: str, step: int) -> None:
    found, one = ran[name], ran["one"]
    # loss, KL, entropy, norm of the gradient, reward
    np.testing.assert_allclose(found.computed[f"{step}/numbers"], one.computed[f"{step}/numbers"], rtol=1e-5, atol=1e-6)
    # Adam's first moment after a step is a tenth of its gradient.
    assert apart(found, one, f"{step}/opt_state/inner_states/learning/inner_state/1/mu") < 1e-5
    assert apart(found, one, f"{step}/opt_state/inner_states/learning/inner_state/1/nu") < 1e-5
    weights = [key for key in found.computed if key.startswith(f"{step}/graphstate/")]
    assert len(weights) > 40
    # A step of Adam is the rate (1e-4) times a ratio of moments, at most 1 in the first steps: two runs are at most two
    # rates a step apart, where a gradient is next to nothing and the ratio is of its rounding. Where it is a thousandth
    # of the array's largest and more, rounding of 1e-5 of that is a hundredth of it and of the ratio.
    apart_since, learnt = range(1 if name == FIRST else 3, step + 1), 0
    for key in weights:
        difference = np.abs(found.computed[key] - one.computed[key])
        moments = [
            key.replace(f"{step}/graphstate/", f"{of}/opt_state/inner_states/learning/inner_state/1/nu/")
            for of in apart_since
        ]
        if moments[-1] not in one.computed:
            assert not difference.any(), key  # frozen
            continue
        sizes = [np.sqrt(one.computed[moment]) for moment in moments]
        sound = np.all([size >= 1e-3 * size.max() for size in sizes], axis=0)
        assert sound.any(), key
        assert difference.max() <= 2e-4 * len(moments), key
        assert difference[sound].max() < 1e-5, key
        assert difference.mean() < 1e-6, key
        learnt += 1
    assert learnt == 15


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_the_same_keys_draw_the_same_completions(ran: dict[str, Run], name: str, step: int) -> None:
    tokens = ran[name].computed[f"{step}/tokens"]
    assert tokens.shape == (8, 4, 6)
    assert len(np.unique(tokens)) > 50
    np.testing.assert_array_equal(tokens, ran["one"].computed[f"{step}/tokens"])


def test_transcripts_are_the_same_of_rows_that_no_mesh_divides(ran: dict[str, Run]) -> None:
    one, found = ran["one"].computed, ran[FIRST].computed
    assert one["greedy"].shape == (5, 6)
    np.testing.assert_array_equal(found["greedy"], one["greedy"])
    np.testing.assert_allclose(found["log_probs"], one["log_probs"], atol=1e-5)


PARAMETERS = {
    "model/embed_tokens/embedding": ((968, 64), (484, 32), (484, 64)),
    "lm_head/kernel": ((64, 968), (32, 484), (32, 968)),
    "model/layers/0/self_attn/q_proj/kernel": ((64, 128), (32, 64), (32, 128)),
    "model/layers/0/self_attn/k_proj/kernel": ((64, 64), (32, 32), (32, 64)),
    "model/layers/0/self_attn/o_proj/kernel": ((128, 64), (64, 32), (128, 32)),
    "model/layers/0/mlp/experts/gate_proj/kernel": ((8, 64, 32), (8, 32, 16), (2, 32, 32)),
    "model/layers/0/mlp/experts/up_proj/kernel": ((8, 64, 32), (8, 32, 16), (2, 32, 32)),
    "model/layers/0/mlp/experts/down_proj/kernel": ((8, 32, 64), (8, 16, 32), (2, 32, 32)),
    "audio_tower/layers/0/self_attn/q_proj/kernel": ((64, 64), (32, 32), (32, 64)),
    "audio_tower/layers/0/self_attn/out_proj/kernel": ((64, 64), (32, 32), (64, 32)),
    "audio_tower/layers/0/fc1/kernel": ((64, 128), (32, 64), (32, 128)),
    "audio_tower/proj2/kernel": ((64, 64), (32, 32), (64, 32)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_moments_are_divided(ran: dict[str, Run], name: str) -> None:
    kept = {"graphstate"}
    if not name.startswith("audio_tower"):  # which is frozen
        kept |= {f"opt_state/inner_states/learning/inner_state/1/{moment}" for moment in ("mu", "nu")}
    for run_, shape in zip(("one", FIRST, SECOND), PARAMETERS[name], strict=True):
        assert {tuple(ran[run_].places["state"][f"{where}/{name}/value"]) for where in kept} == {shape}


@pytest.mark.parametrize(("name", "rows"), [("one", 8), (FIRST, 2), (SECOND, 1)])
def test_rows_are_divided_wherever_they_go(ran: dict[str, Run], name: str, rows: int) -> None:
    given = ran[name].places["given"]
    # Behind parameters: prompts, completions and what these are worth.
    arrays = {
        f"{program} {path}": shape
        for program, first in (("_hear", 2), ("_sample", 2), ("_score", 2), ("_update", 1))
        for path, shape in given[program].items()
        if int(path.split("/")[0]) >= first and shape
    }
    assert len(arrays) > 20
    assert {path: shape[0] for path, shape in arrays.items()} == dict.fromkeys(arrays, rows)


def test_work_and_caches_are_divided(ran: dict[str, Run]) -> None:
    """By FLOPs of one device's program; a tower's convolutions are for all devices along tensor to do."""
    one = ran["one"].places
    assert one["caches"] == ["8,4,4,5,16"]
    assert ran[FIRST].places["caches"] == ["2,2,4,5,16"]
    assert ran[SECOND].places["caches"] == ["1,4,4,5,16"]
    for name, parts in ((FIRST, 2), (SECOND, 1)):
        flops = ran[name].places["flops"]
        assert flops["_hear"] < one["flops"]["_hear"] / 3.9
        assert flops["_sample"] < one["flops"]["_sample"] / 7.2
        for program in ("_score", "_update"):  # of a scan over parts of the prompts one is counted
            assert flops[program] < one["flops"][program] / parts / 7


def test_the_programs_are_the_same_made_of_shapes_alone(ran: dict[str, Run]) -> None:
    assert ran[FIRST].places["shapes"] == dict.fromkeys(("hear", "sample", "score", "update"), True)


def test_every_product_of_float32_is_of_float32(ran: dict[str, Run]) -> None:
    assert ran[FIRST].places["loose"] == {name: [] for name in ("hear", "sample", "score", "update")}


def test_xla_still_sums_a_product_wrongly_where_its_width_is_divided_too(ran: dict[str, Run]) -> None:
    found = ran["one"].places["xla"]
    assert found["whole"] < 1e-4
    assert found["divided"] > 1, "XLA has mended it: bridge/configuration.py need not keep widths whole"


def thinker(**text: int) -> dict[str, Any]:
    """The released thinker, where it matters."""
    config = tiny_config(tiny_tokenizer())
    config["audio_config"]["encoder_attention_heads"] = 20
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts": 128}
    config["text_config"] |= heads | text
    return config


@pytest.mark.parametrize(
    ("axes", "devices", "reason"),
    [
        ({"tensor": 8}, 8, r"mesh\.tensor: expected a divisor of the 20 attention heads of the audio tower"),
        ({"tensor": 5}, 5, r"mesh\.tensor: expected a divisor of the 32 attention heads of the decoder"),
        ({"expert": 3}, 3, r"mesh\.expert: expected a divisor of the 128 experts of a layer"),
        ({"expert": 256}, 256, r"mesh\.expert: .*got 256\. This model takes 1, 2, 4, 8, 16, 32, 64, 128\."),
    ],
)
def test_a_mesh_that_would_divide_what_is_whole_is_refused(axes: dict[str, int], devices: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        demand_divisible(MeshConfig(**axes), thinker(), devices)


def test_what_a_model_can_take_is_said() -> None:
    with pytest.raises(ConfigError, match=r"This model takes 1, 2, 4\."):
        demand_divisible(MeshConfig(tensor=8), thinker(), 8)
    with pytest.raises(ConfigError, match=r"divisor of the 2 key and value heads.* takes 1, 2\."):
        demand_divisible(MeshConfig(tensor=4), thinker(num_key_value_heads=2), 8)
    assert demand_divisible(MeshConfig(data=2, tensor=4, expert=16), thinker(), 256) == (2, 2, 16, 4, 1)
    assert demand_divisible(MeshConfig(tensor=8), thinker(), 1) == (1, 1, 1, 1, 1)  # there is nothing to divide


def test_it_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    loaded: Checkpoint = checkpoint.load("tiny")
    checkpoint.save(loaded, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"mesh\.tensor"):
        checkpoint.load(str(tmp_path / "model"), mesh=MeshConfig(tensor=8), devices=jax.devices() * 8)


def test_a_batch_that_devices_cannot_divide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    config = small_config("train.batch_size=6", "mesh={data=2, fsdp=2, tensor=2}")
    data = tone_shards(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.batch_size: expected a multiple of 4: .* got 6\. Set it to 8"):
        run.train(config, data, "tiny", tmp_path / "run", on_step=lambda _: None)
    demand_rows(MeshConfig(expert=2, tensor=2), train__batch_size=8, memory__prompts=0)
    with pytest.raises(ConfigError, match=r"memory\.prompts: expected a multiple of 8"):
        demand_rows(MeshConfig(), train__batch_size=8, memory__prompts=4)


@pytest.mark.parametrize(
    ("axes", "devices", "expected"),
    [
        (MeshConfig(), 8, (1, 8, 1, 1, 1)),
        (MeshConfig(data=2, tensor=2), 8, (2, 2, 1, 2, 1)),
        (MeshConfig(data=2, fsdp=4), 8, (2, 4, 1, 1, 1)),
        (MeshConfig(data=4, fsdp=1, expert=-1), 8, (4, 1, 2, 1, 1)),
        (MeshConfig(data=4, tensor=2), 1, (1, 1, 1, 1, 1)),
    ],
)
def test_axes_multiply_to_the_devices(axes: MeshConfig, devices: int, expected: tuple[int, ...]) -> None:
    assert axis_dims(axes, devices) == expected


@pytest.mark.parametrize("axes", [MeshConfig(data=3), MeshConfig(fsdp=4), MeshConfig(fsdp=1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(axes: MeshConfig) -> None:
    with pytest.raises(ConfigError, match="mesh: expected axis sizes that multiply to 8 devices"):
        axis_dims(axes, 8)


def test_one_device_leaves_arrays_and_programs_as_they_are() -> None:
    alone = checkpoint.abstract("tiny", devices=jax.devices()[:1]).model.mesh
    array = np.arange(3)
    assert mesh.kept(alone, array) is array
    assert mesh.batch_shards(alone) == 1
