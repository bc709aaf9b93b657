"""A subset of shards: the rows that a file names, in source order, as if they were all there are."""

import json
from pathlib import Path

import pytest
from tones import tone_shards

from audiorl_cli.data.shards import Shards, open_shards
from audiorl_cli.data.subset import subset, write_subset
from audiorl_cli.errors import DataError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return open_shards(tone_shards(tmp_path_factory.mktemp("tones"), rows=5))


def test_rows_are_those_named_in_source_order(tmp_path: Path, shards: Shards) -> None:
    path = tmp_path / "new" / "subset.jsonl"
    write_subset(path, [{"id": "tone3", "note": "\u2028"}, {"id": "tone1"}, {"id": "tone3"}])
    chosen = subset(shards, path)
    assert chosen.rows == 2
    assert chosen.column("id") == ["tone1", "tone3"]
    assert chosen.texts() == [shards.texts()[1], shards.texts()[3]]
    assert [row.id for row in chosen.read([1, 0])] == ["tone3", "tone1"]
    assert (chosen.read([0])[0].features == shards.read([1])[0].features).all()
    assert [[row.id for row in rows] for rows in chosen.iterate(1)] == [["tone1"], ["tone3"]]
    with pytest.raises(IndexError):
        chosen.read([2])


def test_another_choice_has_another_digest(shards: Shards) -> None:
    digests = [shards.digest, *(shards.only(ids).digest for ids in (["tone0"], ["tone1"], ["tone0", "tone1"]))]
    assert len(set(digests)) == 4
    assert shards.only(["tone1", "tone0"]).digest == digests[-1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": "tone1"}\n{"id": "elsewhere"}\n', "got 'elsewhere', which is not"),
        ("", "got none"),
        ('{"id": "tone1"}\ntone2\n', "subset.jsonl line 2: expected an object with an \"id\", got 'tone2'"),
        ('{"id": 5}\n', 'expected an object with an "id"'),
        ("[" * 10_000, 'expected an object with an "id"'),
        (json.dumps({"id": "x" * (1 << 18)}), "a line longer than"),
    ],
)
def test_what_names_no_row_is_refused(tmp_path: Path, shards: Shards, content: str, told: str) -> None:
    (tmp_path / "subset.jsonl").write_text(content)
    with pytest.raises(DataError, match=told):
        subset(shards, tmp_path / "subset.jsonl")
