# ruff: noqa: E501 - a program's lines are as long as XLA writes them
"""`audiorl plan`: operations and bytes counted by hand, slices, what is extrapolated; and real programs for TPUs."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from audiorl_cli import config as configs
from audiorl_cli.config import RunConfig
from audiorl_cli.errors import ConfigError, InstallError, UsageError
from audiorl_cli.tpu import advice, chips, compiled, hlo, plan, search, subject
from audiorl_cli.tpu.compiled import CompilerError, Figures, Job, TooLargeError
from audiorl_cli.tpu.flops import flops

AUDIORL = (sys.executable, "-m", "audiorl_cli")
ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
Spec: Any = PartitionSpec


def counted(function: Any, *shapes: tuple[int, ...], trips: int = 1, grouped: float = 1.0) -> float:
    arrays = [jnp.zeros(shape) for shape in shapes]
    return flops(jax.jit(function).trace(*arrays).jaxpr, trips, grouped)


def test_a_product_is_two_operations_a_multiplication() -> None:
    assert counted(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert counted(partial(jnp.einsum, "bij,bkj->bik"), (2, 3, 5), (2, 7, 5)) == 2 * 2 * 3 * 5 * 7


def test_the_gradient_of_a_product_is_two_more() -> None:
    def loss(a: Any, b: Any) -> Any:
        return ((a @ b) ** 2).sum()

    assert counted(jax.grad(loss, argnums=(0, 1)), (3, 5), (5, 7)) == 3 * (2 * 3 * 5 * 7)


def test_a_convolution_takes_each_tap_of_each_channel() -> None:
    def convolved(image: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert counted(convolved, (1, 8, 8, 3), (3, 3, 3, 4)) == 2 * (4 * 4 * 4) * (3 * 3 * 3)


def test_rows_by_groups_meet_one_matrix_each() -> None:
    def by_group(rows: Any, matrices: Any) -> Any:
        return jax.lax.ragged_dot(rows, matrices, jnp.full(4, 2, jnp.int32))

    assert counted(by_group, (8, 5), (4, 5, 7)) == 2 * 8 * 5 * 7
    assert counted(by_group, (8, 5), (4, 5, 7), grouped=0.25) == 2 * 2 * 5 * 7
    gradient = jax.grad(lambda rows, matrices: (by_group(rows, matrices) ** 2).sum(), argnums=(0, 1))
    assert counted(gradient, (8, 5), (4, 5, 7)) == 3 * (2 * 8 * 5 * 7)


def test_loops_count_as_often_as_they_turn() -> None:
    def scanned(a: Any) -> Any:
        return jax.lax.scan(lambda carry, _: (carry @ a, None), a, None, length=6)[0]

    def until(a: Any) -> Any:
        return jax.lax.while_loop(lambda carry: carry.sum() < 1, lambda carry: carry @ a, a)

    def either(a: Any) -> Any:
        return jax.lax.cond(a.sum() > 0, lambda: a @ a @ a, lambda: a @ a)

    once = 2 * 4 * 4 * 4
    assert counted(scanned, (4, 4)) == 6 * once
    assert counted(until, (4, 4), trips=9) == 9 * once
    assert counted(either, (4, 4)) == 2 * once
    assert counted(jax.checkpoint(scanned), (4, 4)) == 6 * once


def test_what_one_device_does_is_done_by_all() -> None:
    mesh = Mesh(jax.devices()[:1], ("x",))
    divided = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(Spec("x"), Spec()), out_specs=Spec("x"))
    traced = jax.jit(divided).trace(jnp.zeros((3, 5)), jnp.zeros((5, 7)))
    assert flops(traced.jaxpr, 1) == 2 * 3 * 5 * 7
    wide = jax.sharding.AbstractMesh((4,), ("x",))
    spread = jax.shard_map(jnp.matmul, mesh=wide, in_specs=(Spec("x"), Spec()), out_specs=Spec("x"))
    assert flops(jax.jit(spread).trace(jnp.zeros((8, 5)), jnp.zeros((5, 7))).jaxpr, 1) == 2 * 8 * 5 * 7


PROGRAM = """HloModule jit_f

%fused_slice (param_0.1: f32[100,8], param_1.1: s32[]) -> f32[2,8] {
  %param_0.1 = f32[100,8]{1,0:T(8,128)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  %bitcast.1 = f32[100,8]{1,0:T(8,128)} bitcast(%param_0.1)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = f32[2,8]{1,0:T(8,128)} dynamic-slice(%bitcast.1, %param_1.1, %zero.1), dynamic_slice_sizes={2,8}
}

%fused_update (param_0.2: f32[100,8], param_1.2: f32[1,8], param_2.2: s32[]) -> f32[100,8] {
  %param_0.2 = f32[100,8]{1,0:T(8,128)} parameter(0)
  %param_1.2 = f32[1,8]{1,0:T(8,128)} parameter(1)
  %param_2.2 = s32[]{:T(128)} parameter(2)
  ROOT %update.2 = f32[100,8]{1,0:T(8,128)} dynamic-update-slice(%param_0.2, %param_1.2, %param_2.2, %param_2.2)
}

%body (carry.3: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %carry.3 = (s32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) parameter(0)
  %place.3 = s32[]{:T(128)} get-tuple-element(%carry.3), index=0
  %rows.3 = f32[2,8]{1,0:T(8,128)} get-tuple-element(%carry.3), index=1
  %gathered.3 = f32[8,8]{1,0:T(8,128)S(1)} all-gather(%rows.3), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %added.3 = f32[2,8]{1,0:T(8,128)} add(%rows.3, %rows.3)
  ROOT %next.3 = (s32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) tuple(%place.3, %added.3)
}

%going (carry.4: (s32[], f32[2,8])) -> pred[] {
  %carry.4 = (s32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) parameter(0)
  %place.4 = s32[]{:T(128)S(6)} get-tuple-element(%carry.4), index=0
  %limit.4 = s32[]{:T(128)S(6)} constant(5)
  %within.4 = pred[]{:T(512)S(6)} compare(%place.4, %limit.4), direction=LT
  ROOT %going.4 = pred[]{:T(512)S(6)} and(%within.4, %within.4)
}

ENTRY %main (table.5: f32[100,8], place.5: s32[], row.5: f32[1,8]) -> f32[2,8] {
  %table.5 = f32[100,8]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %place.5 = s32[]{:T(128)S(6)} parameter(1)
  %row.5 = f32[1,8]{1,0:T(8,128)} parameter(2)
  %written.5 = f32[100,8]{1,0:T(8,128)} fusion(%table.5, %row.5, %place.5), kind=kLoop, calls=%fused_update
  %taken.5 = f32[2,8]{1,0:T(8,128)S(1)} fusion(%written.5, %place.5), kind=kLoop, calls=%fused_slice
  %summed.5 = f32[2,8]{1,0:T(8,128)S(1)} all-reduce(%taken.5), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%going
  %carry.5 = (s32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) tuple(%place.5, %summed.5)
  %loop.5 = (s32[]{:T(128)}, f32[2,8]{1,0:T(8,128)}) while(%carry.5), condition=%going, body=%body
  ROOT %out.5 = f32[2,8]{1,0:T(8,128)} get-tuple-element(%loop.5), index=1
}
"""


def test_what_a_compiled_program_moves() -> None:
    row = 8 * 4
    # The update reads its row and writes one; the slice reads two. A turn reads the rows to pass them on, and twice to
    # add them, and writes two. The ring of four passes on three quarters of what it gathers, and half as much again of
    # what it sums, there and back.
    once, turn = (1 + 1 + 2) * row, (2 + 2 + 2 + 2) * row
    summed, gathered = 2 * (2 * row) * 3 / 4, (8 * row) * 3 / 4
    assert hlo.traffic(PROGRAM, 100) == (once + 100 * turn, summed + 100 * gathered)
    counts = re.sub(r"  %within.4(.*)\n  ROOT.*", r"  ROOT %within.4\1", PROGRAM)
    assert hlo.traffic(counts, 100) == (once + 5 * turn, summed + 5 * gathered)


NESTED = """%inner (param_0.1: f32[100,8], param_1.1: s32[]) -> f32[2,8] {
  %param_0.1 = f32[100,8]{1,0} parameter(0)
  %param_1.1 = s32[] parameter(1)
  ROOT %taken.1 = f32[2,8]{1,0} dynamic-slice(%param_0.1, %param_1.1, %param_1.1), dynamic_slice_sizes={2,8}
}

%outer (param_0.2: f32[100,8], param_1.2: s32[S(6)]) -> f32[2,8] {
  %param_0.2 = f32[100,8]{1,0} parameter(0)
  %param_1.2 = s32[] parameter(1)
  %fused.2 = f32[2,8]{1,0} fusion(%param_0.2, %param_1.2), kind=kLoop, calls=%inner
  ROOT %added.2 = f32[2,8]{1,0} add(%fused.2, %fused.2)
}

ENTRY %main (table.3: f32[100,8], place.3: s32[]) -> f32[2,8] {
  %table.3 = f32[100,8]{1,0} parameter(0)
  %place.3 = s32[]{:S(6)} parameter(1)
  ROOT %out.3 = f32[2,8]{1,0:S(1)} fusion(%table.3, %place.3), kind=kOutput, calls=%outer
}
"""


def test_a_slice_within_a_slice_is_read_as_far_as_it_is_taken() -> None:
    assert hlo.traffic(NESTED, 1) == (2 * 8 * 4, 0)
    # Handed on as it is, the table may all be read.
    whole = NESTED.replace(
        "ROOT %taken.1 = f32[2,8]{1,0} dynamic-slice(%param_0.1, %param_1.1, %param_1.1)",
        "ROOT %taken.1 = f32[800]{0} bitcast(%param_0.1)",
    )
    assert hlo.traffic(whole, 1) == (100 * 8 * 4, 0)


def test_an_operation_that_has_begun_is_counted_once() -> None:
    text = """ENTRY %main (a.1: bf16[64,128]) -> bf16[64,128] {
  %a.1 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %begun.1 = (bf16[64,128]{1,0:T(8,128)(2,1)}, bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%a.1)
  %here.1 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%begun.1)
  %sent.1 = (bf16[64,128]{1,0}, bf16[64,128]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%here.1), source_target_pairs={{0,1},{1,0}}
  ROOT %got.1 = bf16[64,128]{1,0:T(8,128)(2,1)} collective-permute-done(%sent.1)
}
"""
    size = 64 * 128 * 2
    assert hlo.traffic(text, 1) == (size + 2 * size, size)


def test_each_layer_adds_as_much_as_the_last() -> None:
    def figures(decoder: int, tower: int) -> Figures:
        return Figures(10 + 3 * decoder + 2 * tower, 5 * decoder, 7 * tower, 1)

    both = [(cut, figures(*cut)) for cut in ((2, 2), (4, 2), (2, 4))]
    assert subject.extrapolated(both, (48, 32), (0, 1)) == pytest.approx(figures(48, 32))
    together = [(cut, figures(cut[0], 0)) for cut in ((2, 2), (4, 4))]
    assert subject.extrapolated(together, (48, 32), (0,)) == pytest.approx(figures(48, 0))
    hearing = [(cut, figures(0, cut[1])) for cut in ((2, 2), (4, 4))]
    assert subject.extrapolated(hearing, (48, 32), (1,)) == pytest.approx(figures(0, 32))


def test_which_layers_are_compiled() -> None:
    learns = configs.from_table({"train": {"freeze_audio_tower": False}})
    assert plan.cuts_of((48, 32), RunConfig(), whole=False) == [(2, 2), (4, 4)]
    assert plan.cuts_of((48, 32), learns, whole=False) == [(2, 2), (4, 2), (2, 4)]
    assert plan.cuts_of((48, 32), learns, whole=True) == plan.cuts_of((48, 32), RunConfig(), whole=True) == [(48, 32)]
    assert plan.cuts_of((2, 2), RunConfig(), whole=False) == [(2, 2)]


@pytest.mark.parametrize(
    ("topology", "accelerator", "count", "hosts"),
    [
        ("v4:2x2x1", "v4-8", 4, 1),
        ("v5p:4x4x4", "v5p-128", 64, 16),
        ("v5e:2x4", "v5litepod-8", 8, 1),
        ("v6e:4x4", "v6e-16", 16, 4),
        ("v6e:1x1", "v6e-1", 1, 1),
    ],
)
def test_slices_by_the_names_that_the_cloud_has(topology: str, accelerator: str, count: int, hosts: int) -> None:
    place = chips.slice_of(topology)
    assert (place.accelerator, place.chips, place.hosts, str(place)) == (accelerator, count, hosts, topology)


@pytest.mark.parametrize(
    ("topology", "said"),
    [("v5p:3x3x3", "2x2x1, 2x2x2"), ("h100:8", "a slice of v4, v5e, v5p, v6e"), ("v5p", "v5p:2x2x1, 2x2x2")],
)
def test_a_slice_that_is_not_on_offer(topology: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chips.slice_of(topology)


def test_the_list_needs_no_compiler() -> None:
    done = subprocess.run((*AUDIORL, "plan", "--list", "--json"), capture_output=True, text=True, check=True)
    listed = {one["topology"]: one for one in json.loads(done.stdout)}
    assert {name.split(":")[0] for name in listed} == {"v4", "v5e", "v5p", "v6e"}
    assert listed["v6e:2x4"] | {"accelerator": "v6e-8", "chips": 8, "hosts": 1} == listed["v6e:2x4"]


def test_without_the_compiler_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chips, "find_spec", lambda _: None)
    with pytest.raises(InstallError, match="make env EXTRA=tpu"):
        chips.prepare()


def test_wrong_usage() -> None:
    done = subprocess.run((*AUDIORL, "plan", "--model", "tiny"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no --topology" in done.stderr


def described(fullest: str, resident: subject.Resident, **axes: int) -> plan.Plan:
    mesh = {"dp": 1, "fsdp": 1, "ep": 1, "tp": 1} | axes
    figures = Figures(90.0 * GIB, 1.0, 1.0, 1.0)
    return plan.Plan(
        *("v5p:2x2x1", "v5p-8", 4, 1, mesh, 95.74 * GIB, resident, 3.0 * GIB, resident.optimizer / 2),
        *((plan.Program(fullest, 1, figures, 1.0, "memory"),), fullest, 100.0 * GIB, False, 1.0, None),
        *((48, 32), ((2, 2), (4, 4)), 410, ()),
    )


def test_what_is_advised_is_what_is_left_to_turn() -> None:
    small, large = subject.Resident(GIB, 0, 0, 0), subject.Resident(30.0 * GIB, 60.0 * GIB, 30.0 * GIB, 0)
    told = "\n".join(advice.advice(RunConfig(), described("update", small, ep=4)))
    assert "memory.recompute" in told
    assert "memory.prompts = 4" in told
    assert "lora" not in told
    turned = configs.from_table(
        {
            "memory": {"recompute": True, "vocabulary": 19008, "prompts": 4, "completions": 1},
            "loss": {"beta": 0.0},
        }
    )
    assert advice.advice(turned, described("update", small, ep=4)) == ()
    told = "\n".join(advice.advice(turned, described("update", large, ep=4, dp=2)))
    assert "loss.beta = 0 (no reference model: 30.0 GiB less)" in told
    assert "lora.rank = 32 (no moments and gradients of whole weights: 90.0 GiB less)" in told
    assert "mesh.data = 1" in told
    assert "memory" not in told
    assert "keys and values take 3.0 GiB" in "\n".join(advice.advice(turned, described("sample", small)))


def programs(*names: str) -> list[Job]:
    return [Job(RunConfig(), "tiny", chips.slice_of("v6e:1x1"), 100, name, (2, 2)) for name in names]


def answered_by(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Programs are compiled by `script`, whose `job` is the one that it is asked for."""
    asked = f"import os, pickle, signal, sys, time; job = pickle.load(sys.stdin.buffer); {script}"
    monkeypatch.setattr(compiled, "module_command", lambda *_: [sys.executable, "-c", asked])
    monkeypatch.setattr(compiled, "version", lambda _: "1.2.3")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(compiled, "_physical_bytes", lambda: 16 * GIB)


def test_a_compiler_that_ends_is_one_line_and_the_end_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    answered_by(monkeypatch, "os.write(2, b'F1127'); os.abort() if job.name == 'update' else time.sleep(600)")
    begun = time.monotonic()
    with pytest.raises(
        CompilerError, match=r"v6e:1x1: update, 2 layers .* \(libtpu 1.2.3\) that ends, SIGABRT"
    ) as said:
        list(compiled.figures_of(programs("sample", "update"), lambda _: None))
    assert time.monotonic() - begun < 60
    log = Path(str(said.value).rsplit(" ", 1)[1].rstrip("."))
    assert log.read_text().startswith("F1127")
    log.unlink()


def test_what_a_process_answers_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "from audiorl_cli.tpu.compiled import Figures; from audiorl_cli.errors import ConfigError; "
    answer += "wrong = ConfigError(job.name, expected='a', got='b', fix='c'); "
    answer += "sys.stdout.buffer.write(pickle.dumps(wrong if job.name == 'score' else Figures(1, 2, 3, len(job.name))))"
    answered_by(monkeypatch, answer)
    seen: list[str] = []
    found = {job.name: figures for job, figures in compiled.figures_of(programs("hear", "sample"), seen.append)}
    assert found == {"hear": Figures(1, 2, 3, 4), "sample": Figures(1, 2, 3, 6)}
    assert seen[0] == "2 programs, 2 at once"
    assert seen[2].startswith("2 of 2 programs")
    with pytest.raises(ConfigError, match="score: expected a, got b"):
        list(compiled.figures_of(programs("score"), seen.append))


needs_compiler = pytest.mark.skipif(
    find_spec("libtpu") is None, reason="libtpu, the compiler of TPUs, comes with make env EXTRA=tpu"
)


@needs_compiler
def test_programs_of_the_tiny_model_compiled_for_real_chips() -> None:
    chips.prepare()
    # A row a device: 116 copies of tokens are multiplied by group, and eights, which the compiler wants, are 120.
    table = {"train": {"batch_size": 4}, "memory": {"prompts": 4}, "rollout": {"max_new_tokens": 4}}
    table |= {"mesh": {"fsdp": 2, "expert": 2}}
    run = subject.subject(configs.from_table(table), "tiny", chips.slice_of("v6e:2x2"), 100)
    assert run.mesh == {"dp": 1, "fsdp": 2, "ep": 2, "tp": 1, "sp": 1}
    programs = run.programs((2, 2))
    assert list(programs) == ["hear", "sample", "score", "update"]
    held = run.resident()
    # Adam's two moments of what learns; the reference is a copy of every parameter.
    assert 0 < held.optimizer < 2 * held.weights
    assert held.reference == pytest.approx(held.weights, rel=0.01)
    # Of the sample on another mesh: where each device has all experts, nothing is scattered among those that do.
    alone = replace(run.config, mesh=configs.MeshConfig(fsdp=4))
    asked = [("hear", run.config), ("update", run.config), ("sample", alone)]
    jobs = [Job(config, run.model, run.place, run.frames, name, (2, 2)) for name, config in asked]
    found = {job.name: figures for job, figures in compiled.figures_of(jobs, lambda _: None)}
    assert all(figures.hbm > 0 and figures.working > 0 for figures in found.values())
    # The tower's weights are brought together along fsdp, experts' rows along ep.
    assert all(figures.wire > 0 for figures in found.values())
    assert found["update"].flops > found["sample"].flops > found["hear"].flops > 0


@needs_compiler
def test_the_search_goes_on_past_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    chips.prepare()
    verdicts: list[Any] = [
        TooLargeError("update", expected="less", got="99 GiB", fix="."),
        CompilerError("update", expected="a program", got="SIGABRT", fix="."),
        described("update", subject.Resident(GIB, 0, 0, 0)),
        replace(described("update", subject.Resident(GIB, 0, 0, 0)), fits=True),
    ]

    def planned(*_: Any, patient: bool, **__: Any) -> plan.Plan:
        assert not patient
        verdict = verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        found: plan.Plan = verdict
        return found

    monkeypatch.setattr(search, "plan", planned)
    settings = configs.from_table({"train": {"batch_size": 4}})
    found = search.search(settings, "tiny", chips.slices(chips.CHIPS["v6e"]), frames=100)
    told = [(one.slice, one.verdict) for one in found.trials]
    # A chip alone is one mesh; the third left no room beside what stays, so those of its slice that hold as much go by.
    assert [verdict for _, verdict in told if verdict != "too large before it is compiled"] == [
        *("99 GiB", "SIGABRT", "update is too large", "fits")
    ]
    assert [place for place, _ in told][:2] == ["v6e:1x1", "v6e:2x2"]
    assert found.found is not None
    assert found.found.fits
    assert found.trials[-1].peak == 100.0 * GIB


@needs_compiler
@pytest.mark.parametrize("config", sorted((ROOT / "examples").rglob("*.toml")), ids=lambda path: path.stem)
def test_every_config_of_the_examples_is_planned(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shapes: compiling them is the command of the example, and takes minutes."""
    chips.prepare()
    omni = config.parent.name == "tpu-qwen3-omni"
    place = chips.slice_of({"lora": "v6e:2x4", "full": "v5p:2x2x4"}[config.stem] if omni else "v6e:1x1")
    model = str(config.parent / "model") if omni else "tiny"
    run = subject.subject(configs.load(config), model, place, plan.FRAMES)
    held = run.resident()
    assert 0 < held.weights < held.total < place.chip.hbm_bytes
    assert run.layers == ((48, 32) if omni else (2, 2))
