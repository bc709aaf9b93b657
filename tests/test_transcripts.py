"""Transcripts by the real tiny model, of recorded digits and of noise of many lengths: every row once, in order,
whatever the batch size and the window it is heard in."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
import reference
import soundfile

from audiorl_cli.bridge import batches, generate, transcription
from audiorl_cli.bridge.checkpoint import Checkpoint, load
from audiorl_cli.bridge.decoder import Prompts
from audiorl_cli.bridge.generate import transcribe
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.errors import ConfigError, DataError, UsageError
from audiorl_cli.evaluate import report
from audiorl_cli.evaluate.bootstrap import Bootstrap
from audiorl_cli.evaluate.report import Report
from audiorl_cli.evaluate.transcripts import evaluate
from audiorl_cli.text import normaliser
from audiorl_cli.wer import count_characters, count_words, total

PROMPT = PromptConfig(instruction="Write down what you hear.")
NEW_TOKENS = 6
LENGTHS = (0.5, 2.6, 1.2, 0.08, 2.9, 0.99, 1.0, 1.01, 2.0)  # seconds, not sorted; less, just, and more than a chunk
ROWS = 7
BATCH = 3  # a last batch of one row and two that stand in


@pytest.fixture(scope="module")
def shards(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("digits")
    rows = [
        json.loads(line) for line in (speech / "digits" / "manifest.jsonl").read_text().splitlines()[:: 2500 // ROWS]
    ]
    lines = [{**row, "audio": str(speech / "digits" / row["audio"]), "text": f"{row['text'].title()}!"} for row in rows]
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines[:ROWS]), encoding="utf-8")
    prep(str(source), folder / "data", PrepSettings(clip_seconds=2.0, rows_per_shard=4, workers=1))
    opened = open_shards(folder / "data")
    assert opened.rows == ROWS
    assert len({*opened.column("num_frames")}) > 1  # prompts of different lengths
    return opened


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("tiny")


@pytest.fixture(scope="module")
def compilations() -> Iterator[list[str]]:
    """The name of every compilation of XLA's, as it happens."""
    seen: list[str] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def progress() -> list[tuple[int, int, int]]:
    """(rows done, rows in all, compilations so far) after each batch of `evaluated`."""
    return []


@pytest.fixture(scope="module")
def evaluated(
    checkpoint: Checkpoint,
    shards: Shards,
    compilations: list[str],
    progress: list[tuple[int, int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("report")

    def on_progress(done: int, rows: int) -> None:
        progress.append((done, rows, len(compilations)))

    found = evaluate(
        checkpoint, shards, PROMPT, batch_size=BATCH, max_new_tokens=NEW_TOKENS, out=out, on_progress=on_progress
    )
    return found, out


def test_every_row_is_there_once_and_in_order(evaluated: tuple[Report, Path], shards: Shards) -> None:
    utterances = evaluated[0].utterances
    assert [one.id for one in utterances] == shards.column("id")
    assert [one.reference_raw for one in utterances] == shards.texts()
    assert [one.speaker for one in utterances] == shards.column("speaker")
    assert [one.duration_s for one in utterances] == shards.column("duration_s")
    assert [one.columns["license"] for one in utterances] == shards.column("license")


def test_an_utterance_holds_what_was_asked_heard_and_counted(
    evaluated: tuple[Report, Path], shards: Shards, checkpoint: Checkpoint
) -> None:
    basic, prompter = normaliser("basic"), Prompter(checkpoint.tokenizer, PROMPT)
    for one, frames in zip(evaluated[0].utterances, shards.column("num_frames"), strict=True):
        assert one.prompt == prompter.text(frames)
        assert one.prompt.count("<|audio_pad|>") == 1
        assert PROMPT.instruction in one.prompt
        assert one.reference == basic(one.reference_raw) != one.reference_raw
        assert one.hypothesis == basic(one.hypothesis_raw)
        assert one.words == count_words(one.reference, one.hypothesis)
        assert one.character_errors == count_characters(one.reference, one.hypothesis).errors
        assert 0 <= one.tokens <= NEW_TOKENS
        assert "<|" not in one.hypothesis_raw  # special tokens are no words


def test_the_totals_are_those_of_the_utterances(evaluated: tuple[Report, Path], shards: Shards) -> None:
    found = evaluated[0]
    metrics = found.metrics
    assert metrics.rows == ROWS
    assert metrics.wer == total(one.words for one in found.utterances).rate
    assert metrics.hours == pytest.approx(sum(shards.column("duration_s")) / 3600)
    assert metrics.rtfx == pytest.approx(metrics.hours * 3600 / metrics.seconds)
    conditions = metrics.conditions
    assert (conditions.model, conditions.dtype, conditions.max_new_tokens) == ("tiny", "float32", NEW_TOKENS)
    assert (conditions.data_digest, conditions.normaliser_digest) == (shards.digest, normaliser("basic").digest)


def test_the_report_was_written(evaluated: tuple[Report, Path]) -> None:
    found, out = evaluated
    assert report.read(out) == found


def test_the_last_batch_is_not_compiled_again(
    evaluated: tuple[Report, Path], progress: list[tuple[int, int, int]]
) -> None:
    assert [(done, rows) for done, rows, _ in progress] == [(3, ROWS), (6, ROWS), (7, ROWS)]
    after = [compiled for _, _, compiled in progress]
    assert after[0] > 0
    assert after[1] == after[2] == after[0]


def test_a_row_is_heard_the_same_whatever_stands_beside_it(
    evaluated: tuple[Report, Path], shards: Shards, checkpoint: Checkpoint
) -> None:
    prompter = Prompter(checkpoint.tokenizer, PROMPT)
    frames = shards.column("num_frames")
    for number in (frames.index(min(frames)), ROWS - 1):  # the most padding; the row beside stand-ins
        [row] = shards.read([number])
        ids = np.array([prompter.ids(row.num_frames)] * BATCH, np.int32)  # no padding of ours
        heard = np.array([np.arange(shards.clip_frames) < row.num_frames] * BATCH, np.int32)
        prompts = Prompts(ids, np.ones_like(ids), heard, np.stack([row.features] * BATCH))
        completions = transcribe(checkpoint, [prompts], NEW_TOKENS)
        assert completions == completions[:1] * BATCH
        raw = checkpoint.tokenizer.decode(completions[0], skip_special_tokens=True)
        found = evaluated[0].utterances[number]
        assert (found.hypothesis_raw, found.tokens) == (raw, len(completions[0]))
        assert found.at_token_limit == (len(completions[0]) == NEW_TOKENS)


def test_the_batch_size_changes_nothing(evaluated: tuple[Report, Path], shards: Shards, checkpoint: Checkpoint) -> None:
    found = evaluate(checkpoint, shards, PROMPT, batch_size=BATCH + 1, max_new_tokens=NEW_TOKENS)
    assert found.utterances == evaluated[0].utterances
    four = replace(shards, records=shards.records[:1], rows=4)
    found = evaluate(checkpoint, four, PROMPT, batch_size=100, max_new_tokens=NEW_TOKENS)
    assert found.utterances == evaluated[0].utterances[:4]


def test_another_models_report_is_refused_before_any_work(
    evaluated: tuple[Report, Path], shards: Shards, checkpoint: Checkpoint
) -> None:
    def on_progress(done: int, rows: int) -> None:
        raise AssertionError("a batch was transcribed")

    other = replace(checkpoint, source="another")
    with pytest.raises(DataError, match="no report, or one of model 'another'"):
        evaluate(
            other,
            shards,
            PROMPT,
            max_new_tokens=NEW_TOKENS,
            out=evaluated[1],
            batch_size=BATCH,
            on_progress=on_progress,
        )


def test_what_cannot_be_evaluated_is_refused(shards: Shards, checkpoint: Checkpoint) -> None:
    with pytest.raises(DataError, match="expected rows to transcribe, got none"):
        evaluate(checkpoint, replace(shards, records=(), rows=0), PROMPT)
    with pytest.raises(ConfigError, match="one of none, basic"):
        evaluate(checkpoint, shards, PROMPT, normaliser_name="nonsuch")
    for sizes in ({"batch_size": 0}, {"max_new_tokens": 0}):
        with pytest.raises(UsageError, match="expected >= 1, got 0"):
            evaluate(checkpoint, shards, PROMPT, **sizes)  # type: ignore[arg-type]


def test_a_baseline_that_was_counted_otherwise_is_refused_before_any_work(
    evaluated: tuple[Report, Path], shards: Shards, checkpoint: Checkpoint
) -> None:
    def on_progress(done: int, rows: int) -> None:
        raise AssertionError("a batch was transcribed")

    with pytest.raises(DataError, match="baseline, normaliser_digest"):
        evaluate(checkpoint, shards, PROMPT, normaliser_name="none", baseline=evaluated[0], on_progress=on_progress)


def test_what_cannot_be_sliced_or_drawn_is_refused_before_any_work(
    shards: Shards, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def on_progress(done: int, rows: int) -> None:
        raise AssertionError("a batch was transcribed")

    with pytest.raises(DataError, match=r"--by nonsuch: expected one of speaker, duration_s, .*license.*, got no such"):
        evaluate(checkpoint, shards, PROMPT, by=["license", "nonsuch"], on_progress=on_progress)
    by_speaker = Bootstrap(cluster="speaker")
    unnamed = noise(tmp_path, (0.5, 0.6))
    with pytest.raises(DataError, match=r"--cluster speaker: expected a speaker for every .*, got 2 rows without one"):
        evaluate(checkpoint, unnamed, PROMPT, bootstrap=by_speaker, on_progress=on_progress)
    rows = [{"audio": str(path), "text": "one", "speaker": "ann"} for path in (tmp_path / "source").glob("*.wav")]
    (tmp_path / "ann.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prep(str(tmp_path / "ann.jsonl"), tmp_path / "ann", PrepSettings(clip_seconds=3.0, workers=1))
    with pytest.raises(DataError, match=r"--cluster speaker: .* two or more in all, got ann alone"):
        evaluate(checkpoint, open_shards(tmp_path / "ann"), PROMPT, bootstrap=by_speaker, on_progress=on_progress)


def test_a_baseline_gives_a_comparison_that_is_written_with_the_report(
    evaluated: tuple[Report, Path], shards: Shards, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    found = evaluate(
        checkpoint,
        shards,
        PROMPT,
        batch_size=BATCH,
        max_new_tokens=NEW_TOKENS,
        normaliser_name="none",
        out=tmp_path,
        baseline=evaluated[0],
        accept_changes=True,
        bootstrap=Bootstrap(50, "speaker"),
        by=["license"],
    )
    assert report.read(tmp_path) == found
    change = found.comparison
    assert change is not None
    # The same transcripts, counted again as they stand.
    assert (change.wer_difference, change.baseline_normaliser) == (0.0, f"basic {normaliser('basic').version}")
    assert (change.probability_of_improvement, change.matched_pairs.p, change.same) == (0.0, 1.0, ROWS)
    columns = [one.column for one in found.metrics.slices]
    assert columns == sorted(columns, key=["speaker", "duration_s", "license"].index)
    assert {*columns} == {"speaker", "duration_s", "license"}
    assert found.metrics.bootstrap == Bootstrap(50, "speaker")


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random model whose transcripts differ from clip to clip."""
    folder = tmp_path_factory.mktemp("decided")
    reference.thinker(folder, tie_word_embeddings=False)  # tied, it says one word over and over
    return load(str(folder))


def noise(folder: Path, lengths: tuple[float, ...]) -> Shards:
    """Shards of a clip of noise of each of `lengths`, the same for the same length, in this order."""
    source = folder / "source"
    source.mkdir()
    for number, seconds in enumerate(lengths):
        generator = np.random.default_rng(round(100 * seconds))
        swell = np.sin(np.arange(round(16_000 * seconds)) * generator.uniform(1e-3, 3e-3)) ** 2
        soundfile.write(source / f"{number}.wav", swell * generator.normal(0, 0.1, swell.shape), 16_000)
        (source / f"{number}.txt").write_text("one")
    prep(str(source), folder / "data", PrepSettings(clip_seconds=3.0, min_seconds=0.05, rows_per_shard=4, workers=1))
    return open_shards(folder / "data")


def alone(checkpoint: Checkpoint, shards: Shards) -> list[list[int]]:
    """What is heard in each row by itself, in the whole window."""
    prompter, heard = Prompter(checkpoint.tokenizer, PROMPT), []
    for row in shards.read(range(shards.rows)):
        ids = np.array([prompter.ids(row.num_frames)], np.int32)
        mask = (np.arange(shards.clip_frames) < row.num_frames).astype(np.int32)[None]
        heard += transcribe(checkpoint, [Prompts(ids, np.ones_like(ids), mask, row.features[None])], NEW_TOKENS)
    return heard


@pytest.mark.parametrize("at_once", [1, 2])
def test_rows_of_any_length_and_order_are_heard_as_each_alone(
    decided: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(batches, "WINDOW_FRAMES", 1)  # as many windows as may be, of little data
    monkeypatch.setattr(transcription, "HEARD", 2)
    read, written = cast(Any, generate._read), cast(Any, generate._greedy)
    sizes: list[list[int]] = []

    def noted(checkpoint: Checkpoint, parts: list[Prompts], *rest: Any, **named: Any) -> list[list[int]]:
        sizes.append([len(part.input_ids) for part in parts])
        return transcribe(checkpoint, parts, *rest, **named)

    monkeypatch.setattr(transcription, "transcribe", noted)
    for order in (LENGTHS, LENGTHS[::-1]):
        (tmp_path / f"{order[0]}").mkdir()
        shards = noise(tmp_path / f"{order[0]}", order)
        read.clear_cache()
        written.clear_cache()
        found = evaluate(decided, shards, PROMPT, batch_size=2 * at_once, max_new_tokens=NEW_TOKENS).utterances
        # nine rows and one that stands in, two heard at a time
        assert sizes == ([[2]] * 5 if at_once == 1 else [[2, 2], [2, 2], [2]])
        sizes.clear()
        windows = {batch.frames for batch in batches.batches(shards.column("num_frames"), shards.clip_frames, 2)}
        assert read._cache_size() == len(windows) == 3  # 300, 200, 100; of neither order alone
        assert written._cache_size() == 1
        assert [one.duration_s for one in found] == pytest.approx(order)
        expected = alone(decided, shards)
        assert len({*map(tuple, expected)}) > len(order) // 2
        texts = [decided.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]
        assert [one.hypothesis_raw for one in found] == texts
        assert [one.tokens for one in found] == [len(tokens) for tokens in expected]
