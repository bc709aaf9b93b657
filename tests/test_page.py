"""The page as bytes: whole HTML in order, nothing from elsewhere, texts of the data as texts, every figure there."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any, Final

import pytest
from reports import HARM, PAIRS, compared, results

from audiorl_cli.evaluate import report
from audiorl_cli.evaluate.bootstrap import Interval
from audiorl_cli.evaluate.exhibits import Exhibit
from audiorl_cli.evaluate.metrics import ReportedSelection
from audiorl_cli.evaluate.page import Making, page, run_files
from audiorl_cli.evaluate.report import Report

_VOID: Final = {"meta", "img", "input", "br", "link", "hr"}


class Parsed(HTMLParser):
    """Every element with its attributes, and all text outside of scripts and styles; refuses what is not nested."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len({*names}), tag
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.raw.append((self._open[-1], self.elements[-1][1], data))
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> Any:
        [data] = [text for tag, attributes, text in self.raw if attributes.get("type") == "application/json"]
        return json.loads(data)

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def _page(found: Report, **more: Any) -> Parsed:
    return Parsed(page(found, found.comparison, report.worst(found, 20), **more))


def _plain() -> Report:
    found = results()
    return Report(found.metrics, found.utterances)


EXHIBIT = Exhibit(b"\x89PNG", f"what is seen: {HARM[1]}", b"fLaC", "")


@pytest.fixture(scope="module")
def whole() -> Parsed:
    before = results([(reference, "four") for reference, _ in PAIRS], "before & after")
    found = compared(results(), before)
    exhibits = {one.id: EXHIBIT for one in found.utterances[:3]}
    exhibits[found.utterances[3].id] = dataclasses.replace(EXHIBIT, audio=b"", silent=f"gone: {HARM[0]}")
    making = Making(f"audiorl eval {HARM[0]}", "now", {"config.toml": f"a = '{HARM[0]}'"})
    return _page(found, baseline=before, exhibits=exhibits, making=making)


def test_texts_of_the_data_are_texts(whole: Parsed) -> None:
    assert {tag for tag, _, _ in whole.raw} == {"style", "script"}
    assert len(whole.all("script")) == 2  # the data and the script of the page
    for tag, attributes in whole.elements:
        assert tag not in ("b", "i"), "an id or a model came through as markup"
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "style" not in attributes, "the policy would not let it take hold"
    for harm in HARM:
        assert {*harm.split()} <= {*re.split(r"[\s;]+", whole.text)}
    assert "runs/<b>bold</b> & co" in whole.words
    assert any("<i>0</i>" in (one["aria-label"] or "") for one in whole.all("audio"))


def test_nothing_comes_from_elsewhere(whole: Parsed) -> None:
    places = [
        value
        for _, attributes in whole.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset") and value
    ]
    assert len(places) > 5
    assert {place.partition(":")[0] if ":" in place else place[0] for place in places} == {"data", "#"}
    style = "".join(text for tag, _, text in whole.raw if tag == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_names_style_and_script_and_forbids_all_else(whole: Parsed) -> None:
    [policy] = [one["content"] for one in whole.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag in ("style", "script"):
        [text] = [one for kind, attributes, one in whole.raw if kind == tag and "type" not in attributes]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "media-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_outline_is_in_order(whole: Parsed) -> None:
    levels = [int(tag[1]) for tag, _ in whole.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [len(whole.all(one)) for one in ("header", "main", "footer")] == [1, 1, 1]
    assert whole.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in whole.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    for link in whole.all("a"):
        assert (link["href"] or "").removeprefix("#") in ids
    for _, attributes in whole.elements:
        assert (attributes.get("aria-labelledby") or ids[0]) in ids


def test_every_utterance_is_in_the_data(whole: Parsed) -> None:
    assert whole.data["compared"] is True
    assert [row[0] for row in whole.data["rows"]] == [f"<i>{number}</i>" for number in range(len(PAIRS))]
    columns = dict(whole.data["slices"])
    assert [*columns] == ["speaker", "duration_s", "room"]
    for number, (row, (reference, hypothesis)) in enumerate(zip(whole.data["rows"], PAIRS, strict=True)):
        _, speaker, seconds, words, sub, ins, deleted, flags, slices, chunks, before, before_chunks = row
        assert (speaker, seconds, words) == (("ann", 'b"ob')[number % 2], 1 + number % 7, len(reference.split()))
        said = [one if isinstance(one, str) else one[0] for one in chunks]
        written = [one if isinstance(one, str) else one[1] for one in chunks]
        assert " ".join(said).split() == reference.split()
        assert " ".join(written).split() == hypothesis.split()
        assert words - sub - deleted + sub + ins == len(hypothesis.split())
        assert columns["room"][slices[2]] == HARM[number % 2]
        assert columns["speaker"][slices[0]] == speaker
        assert (flags & 2 == 2) == (number == 2)
        assert before == max(len(reference.split()), 1) - ("four" in reference.split()) * 1
        assert before_chunks or hypothesis == "four"
    assert [row[7] & 1 for row in whole.data["rows"]] == [0] * 7 + [1, 1, 0]


def test_the_first_screen_says_what_came_of_it(whole: Parsed) -> None:
    found = results().metrics
    assert f"WER{100 * found.wer:.2f} %95 %: " in whole.words.replace("WER ", "WER").replace(" 95", "95")
    assert "Better than the baseline: the 95 % interval of the change lies below 0." in whole.words
    assert "Matched pairs (MAPSSWE): p = " in whole.words
    assert "now" in whole.words
    assert f"sha256 {'d' * 64}" in whole.words
    assert "a = '</script>" in whole.words
    assert "No sound: gone: </script>" in whole.words


@pytest.mark.parametrize(
    ("within", "said"),
    [
        (Interval(-0.2, -0.1), "Better than the baseline"),
        (Interval(-0.2, 0.0), "Not told apart from the baseline"),
        (Interval(0.1, 0.2), "Worse than the baseline"),
        (None, "nothing says whether it is more than chance"),
    ],
)
def test_the_verdict_is_that_of_the_interval(within: Interval | None, said: str) -> None:
    found = compared(results(), results(model="before"))
    assert found.comparison is not None
    change = dataclasses.replace(found.comparison, wer_difference_interval=within)
    assert said in _page(dataclasses.replace(found, comparison=change)).words


def test_a_report_alone_has_a_page() -> None:
    shown = _page(_plain())
    assert "Baseline" not in shown.words
    assert "this page was made without the shards" in shown.words
    assert (shown.all("img"), shown.all("audio"), shown.data["compared"]) == ([], [], False)
    assert {len(row) for row in shown.data["rows"]} == {10}


def test_what_chose_the_model_is_on_the_page_and_where_its_wer_is_too_low() -> None:
    alone = _plain()
    chosen = ReportedSelection("train", 4, 6, HARM[0], "abcdef", 10, 0.5, 3, shared=4)
    first = ReportedSelection("warmstart", 9, 9)
    metrics = dataclasses.replace(alone.metrics, selections=(first, chosen))
    shown = _page(Report(metrics, alone.utterances))
    assert "Not held out: 4 of the 10 utterances are of the validation set that chose the model" in shown.words
    for told in (str(chosen), str(first), "Chosen", "Began with"):
        assert " ".join(told.split()) in shown.words
    assert "Not held out" not in _page(alone).words
    assert "Chosen" not in _page(alone).words


def test_a_comparison_without_the_baselines_utterances_has_its_rates() -> None:
    found = compared(results(), results([(reference, "") for reference, _ in PAIRS], "before"))
    shown = _page(found)
    assert "100.00 %" in shown.words
    assert shown.data["compared"] is False


@pytest.mark.parametrize("pairs", [[], [("a", "a")], [("", "")]])
def test_a_report_of_hardly_anything_has_a_page(pairs: list[tuple[str, str]]) -> None:
    found = results(pairs)
    shown = _page(Report(found.metrics, found.utterances), exhibits={})
    assert len(shown.data["rows"]) == len(pairs)
    assert "Worst" not in shown.words
    assert "No intervals" in shown.words


def test_a_page_depends_on_its_report_alone() -> None:
    found = _plain()
    worst = report.worst(found, 20)
    assert page(found, None, worst) == page(found, None, worst)


def test_the_files_of_a_run_are_shown(tmp_path: Any) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert run_files(str(tmp_path)) == run_files("tiny") == {}  # a file of this name is no run
    (tmp_path / "config.toml").write_text("seed = 1\n")
    assert run_files(str(tmp_path)) == {"config.toml": "seed = 1\n", "run.json": "{}"}
