"""Curves: a panel a number that is told, a line a run, and nothing of a name that a page would act on."""

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from audiorl_cli.errors import DataError, ModelError
from audiorl_cli.rl.curves import plot, series, smoothed


def _run(folder: Path, *steps: Mapping[str, object]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": number, **told}) for number, told in enumerate(steps, 1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 99, "rew')  # a kill cut the last line
    return folder


def _texts(path: Path) -> list[str]:
    return [one.text or "" for one in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


class _Page(HTMLParser):
    """The tags of a page, and the cells of its table row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows and self.tags[-1] in ("th", "td") and data.strip():
            self.rows[-1].append(data.strip())


def test_two_runs_have_a_line_each_in_a_panel_a_number(tmp_path: Path) -> None:
    one = _run(tmp_path / "runs/one", *({"reward_mean": n / 4, "kl": None, "held_out_wer": 0.5} for n in range(4)))
    two = _run(tmp_path / "runs/deep/two", {"reward_mean": 1.0, "sample_wer": 0.25})
    drawn = plot([one, two], tmp_path / "out")
    assert drawn.runs == ("one", "deep/two")
    assert drawn.steps == 5
    assert drawn.files == tuple(tmp_path / f"out/curves.{suffix}" for suffix in ("png", "svg", "html"))
    texts = _texts(tmp_path / "out/curves.svg")
    panels = [text for text in texts if text in ("reward_mean", "sample_wer", "held_out_wer", "kl")]
    assert panels == ["reward_mean", "sample_wer", "held_out_wer"]
    assert texts[-2:] == ["one", "deep/two"]
    with Image.open(tmp_path / "out/curves.png") as picture:
        assert picture.convert("RGB").getcolors(50) is None  # more than 50 of them
    page = _Page((tmp_path / "out/curves.html").read_text())
    assert page.rows == [
        ["steps", "reward_mean", "sample_wer", "held_out_wer"],
        ["one", "4", "0.75", "0.5"],
        ["deep/two", "1", "1", "0.25"],
    ]


def test_the_same_logs_give_the_same_bytes(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {"loss": 1.0}, {"loss": 0.5})
    first, again = plot([run], tmp_path / "a"), plot([run], tmp_path / "b")
    assert [file.read_bytes() for file in first.files] == [file.read_bytes() for file in again.files]


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    run = _run(tmp_path / "<script>alert(1)<" / "$\\frac{" / "x<b>$y$", {"loss": 1.0, "<img src=x>": 2.0})
    other = _run(tmp_path / "plain", {"loss": 1.0})
    drawn = plot([run, other], tmp_path / "out")
    page = _Page((tmp_path / "out/curves.html").read_text())
    assert not {"script", "b", "img"} & set(page.tags)
    assert page.rows[1][0] == drawn.runs[0]
    assert _texts(tmp_path / "out/curves.svg")[-2:] == list(drawn.runs)


def test_means_of_parts_and_points_that_are_none() -> None:
    log = [{"step": step, "kl": None if step == 2 else float(step)} for step in range(1, 52)]
    steps, values = series(log, "kl")
    assert len(steps) == 50
    means = smoothed(steps, values)
    assert [part[:2].tolist() for part in means] == [[2.0, 4.5], [2.0, 4.5]]  # of 1 and 3, of 4 and 5
    assert len(means[0]) == 25
    assert [part.tolist() for part in smoothed(np.array([3.0]), np.array([7.0]))] == [[3.0], [7.0]]


def test_what_is_no_run_and_what_is_named_twice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected the log of a run, got nothing"):
        plot([tmp_path], tmp_path / "out")
    run = _run(tmp_path / "run", {"loss": 1.0})
    with pytest.raises(DataError, match="each run once"):
        plot([run, tmp_path / "x" / ".." / "run"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
