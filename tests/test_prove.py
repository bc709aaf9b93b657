"""check-batch --prove: models that hear, do not yet, and cannot; transformers beside them; rows that prove nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import reference
from flax import nnx
from reference import WEIGHTS, Tensors, copied
from safetensors.numpy import load_file, save_file
from tones import small_config, tone_shards
from typer.testing import CliRunner

from audiorl_cli import console, core
from audiorl_cli.bridge import checkpoint, collate, doctor, prove
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.collate import BatchReport
from audiorl_cli.bridge.hearing import Hearing, RowHearing, judged
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.prove import Proof
from audiorl_cli.bridge.reference import lack
from audiorl_cli.cli import app
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.manifest import MANIFEST, sealed
from audiorl_cli.data.shards import Row, Shards, open_shards, pack, write_shard
from audiorl_cli.errors import DataError, ModelError
from audiorl_cli.rl.warmstart import warmstart


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones")))


@pytest.fixture(scope="module")
def report(shards: Shards) -> BatchReport:
    return collate.check_batches(shards, checkpoint.abstract("tiny"), PromptConfig(), batch_size=4, batches=1)


@pytest.fixture(scope="module")
def proved(report: BatchReport, shards: Shards) -> Callable[..., BatchReport]:
    return lambda model, rows=4: prove.proved(report, shards, checkpoint.abstract(model), PromptConfig(), rows=rows)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models") / "thinker"
    model = reference.thinker(folder)
    model.folder = folder
    return model


@pytest.fixture(scope="module")
def loaded(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """From a folder whose weights a test may change afterwards, so that transformers reads others."""
    return checkpoint.load(str(copied(theirs.folder, tmp_path_factory.mktemp("copies") / "model")))


@pytest.fixture
def again(loaded: Checkpoint, shards: Shards) -> Callable[..., Proof]:
    """The proof on the first two rows drawn, whose programs are compiled once for all tests that take it."""
    order, prompter = collate.drawn(shards, 0), Prompter(loaded.tokenizer, PromptConfig())
    rows, others = shards.read(order[:2]), shards.read(order[1:3])
    return lambda of=loaded: prove.prove(of, prompter, rows, others)


def agreements(proof: Proof | None) -> dict[tuple[str, str], str]:
    assert proof is not None
    return {(one.output, one.other): one.verdict for one in proof.agreements}


ALL = {("logits", "transformers"), ("audio tower", "transformers"), ("audio tower", "each clip alone")}


def test_a_model_that_learned_to_listen_hears(
    proved: Callable[..., BatchReport], shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("warmstart.steps=30", "warmstart.batch_size=6", "warmstart.learning_rate=3e-3", "train.save_every=99")
    warmstart(small_config(*overrides), shards.folder, "tiny", tmp_path / "run", on_step=lambda _: None)
    report = proved(str(tmp_path / "run"))
    assert report.findings == ()
    assert report.proof is not None
    assert report.proof.hearing.verdict == "hears"
    assert agreements(report.proof) == dict.fromkeys(ALL, "ok")
    console.batch_report(report)
    shown = capsys.readouterr().out
    assert "hears: its own audio makes the reference more likely than silence in 4 of 4 rows, by " in shown
    assert "sound: every batch reaches the model whole" in shown


def test_a_random_model_does_not_hear_yet_which_is_no_fault(proved: Callable[..., BatchReport]) -> None:
    report = proved("tiny")
    assert report.findings == ()
    assert report.proof is not None
    assert (report.proof.hearing.verdict, report.proof.skipped) == ("not yet", None)
    assert agreements(report.proof) == dict.fromkeys(ALL, "ok")


def test_a_whole_omni_is_held_against_transformers_which_reads_it_too(
    proved: Callable[..., BatchReport], theirs: Any, report: BatchReport, shards: Shards, tmp_path: Path
) -> None:
    """And each log-prob is what transformers gives, of prompts that this test puts together by itself."""

    def whole(tensors: Tensors) -> Tensors:
        other = {"talker.model.norm.weight": np.ones(3, np.float32)}
        return {f"thinker.{name}": value for name, value in tensors.items()} | other

    folder = copied(theirs.folder, tmp_path / "omni", whole)
    thinker = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_omni_moe", "thinker_config": thinker}))
    proof = proved(str(folder), rows=2).proof
    assert agreements(proof) == dict.fromkeys(ALL, "ok")
    assert proof is not None
    assert [row.id for row in proof.hearing.rows] == [row.id for row in report.batches[0].rows[:2]]
    rows = {row.id: row for row in shards.read(range(shards.rows))}
    tokenizer = checkpoint.abstract("tiny").tokenizer
    prompter = Prompter(tokenizer, PromptConfig())
    for heard in proof.hearing.rows:
        row, other = rows[heard.id], rows[heard.other]
        assert row.text != other.text
        reference_ids = [*tokenizer(row.text)["input_ids"], tokenizer.eos_token_id]
        assert heard.tokens == len(reference_ids)

        def log_probs(features: np.ndarray, reference_ids: list[int] = reference_ids) -> np.ndarray:
            prompt = prompter.ids(features.shape[1])
            foretold = jax.nn.log_softmax(reference.logits(theirs, [*prompt, *reference_ids], features)[:-1])
            return np.asarray(foretold)[np.arange(len(reference_ids)) + len(prompt) - 1, reference_ids]

        own = log_probs(row.features[:, : row.num_frames])
        silence = log_probs(np.full((core.MEL_BINS, row.num_frames), -1.5, np.float32))
        another = log_probs(other.features[:, : other.num_frames])
        expected = own.mean(), silence.mean(), another.mean(), np.abs(own - silence).max()
        np.testing.assert_allclose((heard.own, heard.silence, heard.another, heard.change), expected, atol=1e-4)


def test_a_deaf_checkpoint_is_found_and_ends_in_exit_1(theirs: Any, shards: Shards, tmp_path: Path) -> None:
    def deaf(tensors: Tensors) -> Tensors:
        return {n: np.zeros_like(v) if n.startswith("audio_tower.proj2") else v for n, v in tensors.items()}

    folder = copied(theirs.folder, tmp_path / "deaf", deaf)
    words = ["check-batch", "--prove", "--prove-rows", "2", "--batches", "1"]
    done = CliRunner().invoke(app, [*words, "--data", str(shards.folder), "--model", str(folder)])
    assert done.exit_code == 1
    assert "deaf: the audio changes nothing" in done.stdout
    findings = [line for line in done.stdout.splitlines() if line.startswith("finding")]
    assert len(findings) == 1
    assert "hearing: expected tokens more or less likely for the audio, got none" in findings[0]
    assert "transformers finds the same: the weights are at fault" in findings[0]


def test_weights_that_transformers_reads_otherwise_are_found(loaded: Checkpoint, again: Callable[..., Proof]) -> None:
    path = Path(loaded.source) / WEIGHTS
    sound = load_file(path)
    assert agreements(again()) == dict.fromkeys(ALL, "ok")
    save_file({**sound, "model.norm.weight": 1.01 * sound["model.norm.weight"]}, path)
    decoder = again()
    assert {place for place, verdict in agreements(decoder).items() if verdict != "ok"} == {("logits", "transformers")}
    save_file({**sound, "audio_tower.proj2.bias": 0.001 + sound["audio_tower.proj2.bias"]}, path)
    tower = agreements(again())
    assert (tower["audio tower", "transformers"], tower["audio tower", "each clip alone"]) == ("too far apart", "ok")
    save_file(sound, path)
    (found,) = prove.findings(decoder, "model", patched=True)
    assert found.where.startswith("model: logits against transformers, tone")
    assert found.expected == "within 0.001"
    assert "apart" in found.got


def test_weights_that_are_not_numbers_are_refused(loaded: Checkpoint, again: Callable[..., Proof]) -> None:
    graph, state = nnx.split(loaded.model)
    broken = jax.tree.map(lambda leaf: leaf * np.nan if leaf.dtype == np.float32 else leaf, state)
    with pytest.raises(ModelError, match=r"tone\d through the model: expected finite numbers, got nan"):
        again(dataclasses.replace(loaded, model=nnx.merge(graph, broken)))


def test_where_memory_is_short_transformers_is_left_out(
    again: Callable[..., Proof], report: BatchReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")
    monkeypatch.setattr(doctor, "_CGROUP_LIMIT", tmp_path / "memory.max")
    proof = again()
    assert agreements(proof) == {("audio tower", "each clip alone"): "ok"}
    assert prove.findings(proof, "model", patched=True) == []
    console.batch_report(dataclasses.replace(report, proof=proof))
    line = "not compared with transformers: its float32 copy needs 0.0 GiB of memory, 0.0 are free\n"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(("free", "fits"), [(4 * 10**9, True), (4 * 10**9 - 1, False)])
def test_a_float32_copy_takes_four_bytes_a_parameter(free: int, fits: bool) -> None:
    assert (lack(10**9, free) is None) == fits
    assert lack(30 * 10**9, 64 * 1024**3) == "its float32 copy needs 111.8 GiB of memory, 64.0 are free"


def hearing(*rows: tuple[float, float], change: float = 1.0) -> Hearing:
    """The verdict on rows whose own audio is worth so much more than silence, and than another's."""
    return judged([RowHearing("a", "b", 5, -1.0, -1.0 - s, -1.0 - a, change) for s, a in rows])


def test_the_verdict_takes_most_rows_a_margin_and_both_contrasts() -> None:
    assert hearing((1, 2), (1, 2), (1, 2), (3, 2)).verdict == "hears"
    assert hearing((1, 2), (1, 2), (1, 2), (-1, 2)).verdict == "not yet"  # three of four may be luck
    assert hearing(*[(1, 2)] * 7, (-1, -1)).verdict == "hears"  # seven of eight is not
    assert hearing(*[(0.09, 2)] * 4).verdict == "not yet"  # a model that goes by the length of the clip is so
    assert hearing(*[(2, 0.09)] * 4).verdict == "not yet"  # one that hears a voice and no words
    assert hearing(*[(1, 2)] * 7, (-9, 2)).verdict == "not yet"  # worth less than nothing on average
    assert hearing(*[(0, 2)] * 4, change=1e-4).verdict == "not yet"
    assert hearing(*[(0, 2)] * 4, change=1e-6).verdict == "deaf"
    told = hearing((1, 2), (2, 2), (-1, 2), (2, 2))
    assert (told.over_silence.rows, told.over_silence.nats) == (3, 1.0)
    assert (told.over_another.rows, told.over_another.nats) == (4, 2.0)


def test_what_is_at_fault_is_told_with_what_to_do() -> None:
    def fixes(hearing: Hearing, apart: float, skipped: str | None = None, *, patched: bool = True) -> list[str]:
        agreement = prove._agreement("audio tower", "each clip alone", [ROW], [apart])
        return [one.fix for one in prove.findings(Proof(hearing, (agreement,), skipped), "m", patched=patched)]

    deaf, hears = hearing((0, 0), change=0.0), hearing((1, 1))
    assert fixes(hears, 9e-5) == []
    assert fixes(hears, 2e-4) == [prove._OURS]
    assert fixes(deaf, 0.0) == [prove._WEIGHTS]
    assert fixes(deaf, 0.0, "no memory") == fixes(deaf, 2e-4)[:1] == [prove._OURS]
    assert fixes(deaf, 0.0, patched=False) == [prove._STOCK]


ROW = Row("tone", "one", "", 0.5, 50, np.zeros((128, 100), np.float32))


def rewritten(shards: Shards, folder: Path, change: Callable[[Row], Row]) -> Shards:
    """The rows of `shards`, each changed, in a folder of their own."""
    folder.mkdir()
    record = write_shard(
        folder / "data-00000.parquet", [pack(change(row), "float32") for row in shards.read(range(4))], [], "float32"
    )
    manifest = {**shards.manifest, "shards": [dataclasses.asdict(record)]}
    (folder / MANIFEST).write_bytes(sealed(manifest))
    return open_shards(folder)


def test_rows_at_fault_are_found_and_prove_nothing(
    report: BatchReport, shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = rewritten(shards, tmp_path / "bad", lambda row: dataclasses.replace(row, num_frames=5))
    told = prove.proved(report, bad, checkpoint.abstract("tiny"), PromptConfig(), rows=2)
    assert told.proof is None
    assert {finding.got for finding in told.findings} == {"5"}
    assert all(finding.where.startswith("proof, tone") for finding in told.findings)
    console.batch_report(told, proof_wanted=True)
    assert "not proved: what was found comes first\n" in capsys.readouterr().out


def test_without_another_transcript_there_is_no_other_audio(
    report: BatchReport, shards: Shards, tmp_path: Path
) -> None:
    same = rewritten(shards, tmp_path / "same", lambda row: dataclasses.replace(row, text="one two"))
    with pytest.raises(DataError, match="expected rows of two different transcripts, got 'one two' alone"):
        prove.proved(report, same, checkpoint.abstract("tiny"), PromptConfig())
