"""Reports: totals by hand, written and read back whole, never over another's, compared only where comparable."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from audiorl_cli.errors import DataError
from audiorl_cli.evaluate import report
from audiorl_cli.evaluate.bootstrap import Bootstrap, Interval
from audiorl_cli.evaluate.comparison import compare
from audiorl_cli.evaluate.metrics import Conditions, summarise
from audiorl_cli.evaluate.report import Report
from audiorl_cli.evaluate.utterance import Utterance, scored
from audiorl_cli.text import normaliser
from audiorl_cli.wer import ErrorCounts

BASIC = normaliser("basic")
CONDITIONS = Conditions(
    model="tiny",
    dtype="float32",
    data_digest="d" * 64,
    prompt="<|audio_pad|>Transcribe.",
    max_new_tokens=8,
    normaliser=BASIC.name,
    normaliser_version=BASIC.version,
    normaliser_digest=BASIC.digest,
)
DRAWS = Bootstrap(200)
PAIRS = [("One two three.", "one too three"), ("four", ""), ("", "uh\u2028huh"), ("café 音", "café 音"), ("a", "b c d")]


def _utterance(number: int, reference: str, hypothesis: str) -> Utterance:
    return scored(
        BASIC,
        id=f"u{number}",
        speaker="s",
        duration_s=1.5,
        reference_raw=reference,
        hypothesis_raw=hypothesis,
        tokens=number,
        at_token_limit=number == 4,
        prompt=CONDITIONS.prompt,
        columns={"room": "hall", "snr_db": 3.5},
    )


def _report(
    pairs: list[tuple[str, str]] = PAIRS,
    conditions: Conditions = CONDITIONS,
    seconds: float = 3.0,
    bootstrap: Bootstrap = DRAWS,
) -> Report:
    found = summarise(
        [_utterance(n, *pair) for n, pair in enumerate(pairs)], conditions, seconds, bootstrap, by=["room"]
    )
    return Report(found.metrics, found.utterances)


def _other(field: str) -> Conditions:
    """CONDITIONS but for one field."""
    table = dataclasses.asdict(CONDITIONS)
    table[field] += 1 if isinstance(table[field], int) else "x"
    return Conditions(**table)


def test_totals_by_hand() -> None:
    metrics = _report().metrics
    assert (metrics.rows, metrics.reference_words) == (5, 3 + 1 + 0 + 2 + 1)
    assert (metrics.substitutions, metrics.insertions, metrics.deletions, metrics.hits) == (2, 4, 1, 4)
    assert metrics.wer == 1.0
    assert metrics.reference_characters == 13 + 4 + 0 + 6 + 1
    # two -> too 1, four -> nothing 4, uh huh 6, a -> b c d 5
    assert metrics.cer == pytest.approx((1 + 4 + 6 + 5) / 24)
    assert metrics.token_limit_share == 0.2
    assert metrics.hours == pytest.approx(7.5 / 3600)
    assert metrics.rtfx == 2.5


def test_an_utterance_shows_its_own_counts() -> None:
    first = _report().utterances[0]
    assert (first.reference, first.reference_raw) == ("one two three", "One two three.")
    assert first.words == ErrorCounts(1, 0, 0, 2)
    assert first.wer == pytest.approx(1 / 3)


def test_a_report_is_read_back_equal(tmp_path: Path) -> None:
    written = _report()
    report.write(written, tmp_path / "new" / "folder")
    assert report.read(tmp_path / "new" / "folder") == written
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["metrics.json", "report.html", "utterances.jsonl"]


def test_a_comparison_is_in_the_totals_and_read_back(tmp_path: Path) -> None:
    ours, baseline = _report(), _report([("One two three.", "two"), *PAIRS[1:]])
    written = dataclasses.replace(ours, comparison=compare(ours, baseline))
    report.write(written, tmp_path)
    assert report.read(tmp_path) == written
    table = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert table["comparison"]["baseline_wer"] == pytest.approx(8 / 7)
    assert table["comparison"]["wer_difference_interval"] is not None
    assert table["comparison"]["matched_pairs"]["segments"] == 4


def test_an_utterance_is_read_back_with_its_alignment_and_its_columns(tmp_path: Path) -> None:
    report.write(_report(), tmp_path)
    row = json.loads((tmp_path / "utterances.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["alignment"] == [
        {"kind": "equal", "reference": "one", "hypothesis": "one"},
        {"kind": "substitute", "reference": "two", "hypothesis": "too"},
        {"kind": "equal", "reference": "three", "hypothesis": "three"},
    ]
    assert row["columns"] == {"room": "hall", "snr_db": 3.5}
    assert row["hallucination"] == {"on_silence": False, "loop": "", "too_long": False, "length_ratio": 1.0}


def test_a_column_that_json_has_no_number_for_is_written_as_text(tmp_path: Path) -> None:
    one = dataclasses.replace(_utterance(0, "a", "a"), columns={"snr_db": math.inf, "gain": math.nan, "take": None})
    found = summarise([one], CONDITIONS, 1.0, DRAWS)
    report.write(Report(found.metrics, found.utterances), tmp_path)
    assert report.read(tmp_path).utterances[0].columns == {"snr_db": "inf", "gain": "nan", "take": None}


def test_intervals_hallucinations_and_slices_are_in_the_totals() -> None:
    metrics = _report().metrics
    assert metrics.intervals is not None
    assert metrics.intervals.wer.low < metrics.wer < metrics.intervals.wer.high
    found = metrics.hallucinations  # "uh huh" on silence; "b c d" for "a" is too short to be one
    assert (found.found, found.silent, found.on_silence, found.loops, found.too_long) == (1, 1, 1, 0, 0)
    assert found.share == 0.2
    quiet = _report([*PAIRS, ("", "")]).metrics.hallucinations
    assert (quiet.silent, quiet.on_silence) == (2, 1)
    assert found.interval is not None
    assert found.interval.low == 0.0
    assert [one.column for one in metrics.slices] == ["speaker", "duration_s", "room"]
    assert {one.wer for one in metrics.slices} == {1.0}
    assert metrics.mer == 7 / 11
    assert metrics.wil == pytest.approx(1 - 4 / 7 * 4 / 10)


def test_speakers_are_drawn_where_asked() -> None:
    one = _report(bootstrap=Bootstrap(200, "speaker")).metrics  # of one speaker nothing can be drawn
    assert one.intervals is None
    assert one.hallucinations.interval is None
    utterances = [dataclasses.replace(_utterance(n, *pair), speaker="ab"[n % 2]) for n, pair in enumerate(PAIRS)]
    two = summarise(utterances, CONDITIONS, 1.0, Bootstrap(2000, "speaker")).metrics
    assert two.intervals is not None
    assert (two.units, one.units, _report().metrics.units) == (2, 1, 5)
    # a: 1 + 2 + 3 errors in 4 words; b: 1 + 0 in 3. In a quarter of the draws a comes twice, in another b.
    assert two.intervals.wer == Interval(1 / 3, 6 / 4)


def test_no_replicates_no_intervals() -> None:
    metrics = _report(bootstrap=Bootstrap(0)).metrics
    assert metrics.intervals is None
    assert metrics.hallucinations.interval is None
    assert {one.interval for one in metrics.slices} == {None}


def test_a_report_of_an_earlier_version_is_told(tmp_path: Path) -> None:
    report.write(_report(), tmp_path)
    path = tmp_path / "metrics.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"version": 2', '"version": 1'), encoding="utf-8")
    with pytest.raises(DataError, match=r"format version 1, where this is version 2. Run audiorl eval again"):
        report.read(tmp_path)


def test_the_files_are_plain_json_by_name(tmp_path: Path) -> None:
    report.write(_report(), tmp_path)
    table = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert {"wer": 1.0, "model": "tiny", "rows": 5, "normaliser_digest": BASIC.digest}.items() <= table.items()
    lines = (tmp_path / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert "café 音" in lines[3]  # as a person reads it
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == ["u0", "u1", "u2", "u3", "u4"]
    assert rows[2]["hypothesis_raw"] == "uh\u2028huh"


def test_the_same_model_may_be_evaluated_again(tmp_path: Path) -> None:
    report.write(_report(), tmp_path)
    again = _report([("a", "a")])
    report.write(again, tmp_path)
    assert report.read(tmp_path) == again


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Conditions)])
def test_another_report_is_never_overwritten(tmp_path: Path, field: str) -> None:
    first = _report()
    report.write(first, tmp_path)
    other = _other(field)
    with pytest.raises(DataError, match=f"no report, or one of {field} "):
        report.check_out(tmp_path, other)
    with pytest.raises(DataError, match="Choose another --out"):
        report.write(_report(conditions=other), tmp_path)
    assert report.read(tmp_path) == first


def test_somebody_elses_file_is_never_overwritten(tmp_path: Path) -> None:
    for content in ('{"loss": 1}', "[]", "not json", '{"format": "audiorl-report", "version": 99}'):
        (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"metrics\.json: expected a report that audiorl eval wrote"):
            report.write(_report(), tmp_path)
        assert (tmp_path / "metrics.json").read_text(encoding="utf-8") == content


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="expected a folder to write to"):
        report.write(_report(), tmp_path / "file" / "below")


def test_a_damaged_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.json: .* got No such file"):
        report.read(tmp_path)
    report.write(_report(), tmp_path)
    path = tmp_path / "utterances.jsonl"
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    for damaged, message in (
        ("".join(lines[:-1]), "4 rows"),
        ("".join(lines[:-1]) + lines[-1][:20] + "\n", "utterances.jsonl line 5"),
        (whole.replace('"hits": 2', '"hits": 1'), "where metrics.json has 5"),
        ("".join(lines[:-1]) + '{"id": "u4"}\n', "line 5"),
    ):
        assert damaged != whole
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            report.read(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        report.read(tmp_path)


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    report.write(_report(), tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write(_report(seconds=math.nan), tmp_path)
    assert report.read(tmp_path) == _report()


def test_the_worst_come_first_and_the_right_ones_never() -> None:
    found = report.worst(_report(), 10)
    assert [one.id for one in found] == ["u4", "u2", "u1", "u0"]  # WER 3, 2 (an empty reference), 1, 1/3
    assert [one.id for one in report.worst(_report(), 1)] == ["u4"]
    level = _report([("a", "b"), ("a b", "c d"), ("a", "c")])
    assert [one.id for one in report.worst(level, 9)] == ["u1", "u0", "u2"]


def test_a_report_of_no_rows_has_totals(tmp_path: Path) -> None:
    empty = _report([])
    assert (empty.metrics.wer, empty.metrics.cer, empty.metrics.token_limit_share) == (0.0, 0.0, 0.0)
    report.write(empty, tmp_path)
    assert report.read(tmp_path) == empty


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: expected a folder to write to, got File exists"):
        report.make_out(tmp_path / "file")
    with pytest.raises(DataError, match="expected a folder to write to, got Not a directory"):
        report.make_out(tmp_path / "file/report")
    report.make_out(tmp_path / "new/report")
    assert list((tmp_path / "new/report").iterdir()) == []
    (tmp_path / "new/report/metrics.json").write_text('{"wer": 0.1}')
    with pytest.raises(DataError, match="another kind of file"):
        report.make_out(tmp_path / "new/report")
