"""check-batch: real recordings through EasyDeL's collators into the tiny model's shapes, and what it finds wrong."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from audiorl_cli import core
from audiorl_cli.bridge import checkpoint as checkpoints
from audiorl_cli.bridge import collate, keys
from audiorl_cli.bridge.checkpoint import Checkpoint
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.shards import Row, Shards, open_shards
from audiorl_cli.errors import UsageError

FRAMES = 300
STAGES = ["single-example collator"] * 5 + ["batch collator"] * 5 + ["arguments of the model"] * 2 + ["model"] * 2


@pytest.fixture(scope="module")
def folder(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of ten spoken digits in windows of 3 s."""
    lines = (speech / "digits" / "manifest.jsonl").read_text().splitlines()[::250]
    entries = [{**json.loads(line), "id": f"digit-{number}"} for number, line in enumerate(lines)]
    source = tmp_path_factory.mktemp("digits") / "digits.jsonl"
    for entry in entries:
        entry["audio"] = str(speech / "digits" / entry["audio"])
    source.write_text("".join(json.dumps({k: e[k] for k in ("id", "audio", "text")}) + "\n" for e in entries))
    out = tmp_path_factory.mktemp("shards")
    prep(str(source), out, PrepSettings(clip_seconds=3.0, workers=1, root=speech))
    return out


@pytest.fixture(scope="module")
def shards(folder: Path) -> Shards:
    return open_shards(folder)


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return checkpoints.abstract("tiny")


@pytest.fixture(scope="module")
def prompter(tiny: Checkpoint) -> Prompter:
    keys.apply()
    return Prompter(tiny.tokenizer, PromptConfig())


@pytest.fixture(scope="module")
def report(shards: Shards, tiny: Checkpoint) -> collate.BatchReport:
    return collate.check_batches(shards, tiny, PromptConfig(), batch_size=4, batches=3)


@pytest.fixture
def check(tiny: Checkpoint, prompter: Prompter) -> Callable[..., tuple[collate.BatchCheck, list[collate.Finding]]]:
    """Check one batch of the given rows; its findings."""

    def run(rows: Sequence[Row], length: int | None = None) -> tuple[collate.BatchCheck, list[collate.Finding]]:
        checker = collate.BatchChecker(tiny, prompter, length or prompter.length(FRAMES), FRAMES)
        return checker.check(0, list(range(len(rows))), rows), checker.findings

    return run


def columns(batch: collate.BatchCheck) -> dict[tuple[str, str], collate.Column]:
    return {(column.stage, column.key): column for column in batch.columns}


def test_sound_rows_reach_the_model_whole(report: collate.BatchReport, tiny: Checkpoint) -> None:
    assert report.findings == ()
    assert (report.patched, report.model, report.max_prompt_length) == (True, "tiny", 39 + 16)
    config = tiny.model.config
    for batch in report.batches:
        assert [column.stage for column in batch.columns] == STAGES
        assert {column.verdict for column in batch.columns} == {"ok"}
        found, rows = columns(batch), len(batch.rows)
        assert found["single-example collator", "input_features"].shape == "[128, 300]"
        assert found["batch collator", "input_ids"].shape == f"[{rows}, 55]"
        assert found["batch collator", "utterance"].shape == f"[{rows}]"
        assert found["arguments of the model", "feature_attention_mask"].dtype == "int32"
        assert found["model", "audio tower"].shape == f"[{rows}, 39, {config.audio_config.output_dim}]"
        assert found["model", "logits"].shape == f"[{rows}, 55, {config.text_config.vocab_size}]"


def test_every_row_is_drawn_once_and_has_its_placeholders(report: collate.BatchReport, shards: Shards) -> None:
    assert [len(batch.rows) for batch in report.batches] == [4, 4, 2]  # ten rows, and no row twice
    rows = [row for batch in report.batches for row in batch.rows]
    assert sorted(row.number for row in rows) == list(range(10))
    frames = shards.column("num_frames")
    for row in rows:
        assert row.valid_frames == frames[row.number]
        assert row.placeholders == row.tokens_expected == core.audio_tokens(row.valid_frames)
        assert row.verdict == "ok"


def test_the_seed_decides_the_rows(shards: Shards, tiny: Checkpoint) -> None:
    def drawn(seed: int) -> list[int]:
        report = collate.check_batches(shards, tiny, PromptConfig(), batch_size=3, batches=1, seed=seed)
        return [row.number for row in report.batches[0].rows]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("frames", [1, 99, 140])
def test_a_wrong_count_of_frames_is_found(shards: Shards, check: Any, frames: int) -> None:
    rows = shards.read(range(3))
    assert abs(rows[1].num_frames - frames) > 1
    batch, findings = check([rows[0], replace(rows[1], num_frames=frames), rows[2]])
    assert [finding.where for finding in findings] == ["batch 0, row 1, digit-1: num_frames"]
    assert findings[0].got == str(frames)
    assert f"as it lasts {rows[1].duration_s:.2f} s" in findings[0].expected
    assert [row.verdict for row in batch.rows] == ["ok", f"num_frames: {frames}", "ok"]


def test_sound_behind_the_last_valid_frame_is_found(shards: Shards, check: Any) -> None:
    """The count and the duration agree with each other, and neither with the features."""
    row = shards.read([0])[0]
    _, findings = check([replace(row, num_frames=10, duration_s=0.1)])
    assert [(f.expected, f.got) for f in findings] == [("silence behind the last", "sound behind 10")]


@pytest.mark.parametrize("frames", [0, -3, 301])
def test_a_count_outside_the_window_is_found(shards: Shards, check: Any, frames: int) -> None:
    row = shards.read([0])[0]
    _, findings = check([replace(row, num_frames=frames)], length=100)
    assert ("batch 0, row 0, digit-0: num_frames", "1 to 300", str(frames)) in [
        (finding.where, finding.expected, finding.got) for finding in findings
    ]


def test_features_of_another_number_of_mel_bins_are_found(shards: Shards, check: Any) -> None:
    """EasyDeL joins [128, 300] and [80, 300] to [208, 300] without an error."""
    rows = shards.read(range(2))
    batch, findings = check([rows[0], replace(rows[1], features=rows[1].features[:80])])
    found = columns(batch)
    assert found["batch collator", "input_features"].shape == "[208, 300]"
    assert found["single-example collator", "input_features"].verdict == "another shape in 1 of 2 rows"
    assert findings[0].where == "batch 0, row 1, digit-1: input_features"
    assert (findings[0].expected, findings[0].got) == ("shape (128, 300)", "shape (80, 300)")
    assert any(f.where == "batch 0, batch collator, input_features" and "[208, 300]" in f.got for f in findings)


def test_a_whole_batch_of_another_number_of_mel_bins_stops_at_the_model(shards: Shards, check: Any) -> None:
    batch, findings = check([replace(row, features=row.features[:80]) for row in shards.read(range(2))])
    assert columns(batch)["batch collator", "input_features"].verdict == "another shape"
    assert any(finding.where.startswith("batch 0, model, ") for finding in findings)


def test_a_row_without_audio_is_found_where_it_is_and_where_it_breaks_the_batch(shards: Shards, check: Any) -> None:
    rows = shards.read(range(3))
    deaf = replace(rows[1], num_frames=0, features=np.zeros((128, 0), np.float32))
    batch, findings = check([rows[0], deaf, rows[2]])
    assert batch.rows[1].placeholders == 1  # the template's own: the prompt speaks of audio that is not there
    assert batch.rows[1].tokens_expected == 0
    where = [finding.where for finding in findings]
    assert {"batch 0, row 1, digit-1: input_features", "batch 0, row 1, digit-1: num_frames"} <= set(where)
    assert "batch 0, single-example collator, input_features" in where
    mixed = next(finding for finding in findings if finding.where == "batch 0, batch collator, all columns")
    assert "must not mix present and missing generation kwargs" in mixed.got


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_numbers_are_found(shards: Shards, check: Any, value: float) -> None:
    row = shards.read([0])[0]
    features = row.features.copy()
    features[3, 7:9] = value
    batch, findings = check([replace(row, features=features)])
    assert [(finding.expected, finding.got) for finding in findings] == [("finite numbers", "2 that are not")]
    assert {column.verdict for column in batch.columns} == {"ok"}


def test_a_prompt_that_would_lose_its_audio_is_found(shards: Shards, check: Any, prompter: Prompter) -> None:
    row = max(shards.read(range(10)), key=lambda row: row.num_frames)
    length = prompter.length(row.num_frames)
    assert check([row], length=length)[1] == []
    cut = 10  # tokens; the role and its marks go first, then the placeholders
    batch, findings = check([row], length=length - cut)
    assert [(finding.expected, finding.got) for finding in findings] == [
        (f"at most {length - cut} tokens", str(length))
    ]
    assert f"Raise the maximum prompt length to {length}" in findings[0].fix
    assert 0 < batch.rows[0].placeholders < batch.rows[0].tokens_expected


def test_several_faults_are_all_found(shards: Shards, check: Any) -> None:
    rows = shards.read(range(4))
    features = rows[2].features.copy()
    features[0, 0] = np.nan
    _, findings = check(
        [
            replace(rows[0], num_frames=200),
            rows[1],
            replace(rows[2], features=features),
            replace(rows[3], num_frames=0),
        ],
        length=30,
    )
    for number, thing in [(0, "num_frames"), (0, "prompt"), (2, "input_features"), (3, "num_frames")]:
        assert any(f.where == f"batch 0, row {number}, digit-{number}: {thing}" for f in findings), (number, thing)


def test_a_model_of_another_contract_is_found(tiny: Checkpoint, prompter: Prompter) -> None:
    config = tiny.model.config
    other: Any = SimpleNamespace(
        config=SimpleNamespace(
            audio_token_id=7,
            audio_config=SimpleNamespace(num_mel_bins=80),
            text_config=SimpleNamespace(vocab_size=config.text_config.vocab_size - 1),
        ),
        audio_tower=SimpleNamespace(vectors=lambda frames: (frames + 7) // 8),  # one vector for 80 ms, no chunks
    )
    checker = collate.BatchChecker(replace(tiny, model=other), prompter, 55, FRAMES)
    assert [(finding.where, finding.expected, finding.got) for finding in checker.findings] == [
        ("tiny: config.json, audio_token_id", str(prompter.audio_token_id), "7"),
        ("tiny: config.json, audio_config.num_mel_bins", "128", "80"),
        ("tiny: config.json, text_config.vocab_size", f">= {len(tiny.tokenizer)}", str(len(tiny.tokenizer) - 1)),
        ("tiny: audio tower at 101 frames", "14 vectors", "13"),
    ]


def test_stock_easydel_cannot_be_shown_once_it_is_patched(shards: Shards, tiny: Checkpoint, prompter: Prompter) -> None:
    with pytest.raises(UsageError, match=r"--unpatched: expected an unpatched EasyDeL"):
        collate.check_batches(shards, tiny, PromptConfig(), batch_size=4, batches=1, patched=False)


STOCK = """
import dataclasses, json, sys
from pathlib import Path
from audiorl_cli.bridge import checkpoint, collate, prove
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.shards import open_shards
shards, tiny = open_shards(Path(sys.argv[1])), checkpoint.abstract("tiny")
report = collate.check_batches(shards, tiny, PromptConfig(), 4, 2, patched=False)
report = prove.proved(report, shards, tiny, PromptConfig(), rows=2)
json.dump(dataclasses.asdict(report), sys.stdout)
"""


def test_stock_easydel_lets_no_audio_reach_the_model(folder: Path) -> None:
    run = subprocess.run([sys.executable, "-c", STOCK, str(folder)], capture_output=True, text=True, check=True)
    stock = json.loads(run.stdout.splitlines()[-1])
    assert stock["patched"] is False
    verdicts = {(c["stage"], c["key"]): c["verdict"] for c in stock["batches"][0]["columns"]}
    assert verdicts["batch collator", "input_features"] == "ok"
    assert verdicts["model", "logits"] == "ok"
    missing = [
        ("arguments of the model", "feature_attention_mask"),
        ("arguments of the model", "input_features"),
        ("model", "audio tower"),
    ]
    assert [where for where, verdict in verdicts.items() if verdict != "ok"] == missing
    proof = stock["proof"]
    assert proof["hearing"]["verdict"] == "deaf"
    assert {(one["output"], one["other"]) for one in proof["agreements"] if one["verdict"] != "ok"} == {
        ("logits", "transformers")
    }
    assert len(stock["findings"]) == 2 * len(missing) + 2
