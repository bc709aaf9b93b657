"""What a person sees of scores: each figure with its interval, nothing where there is nothing to say."""

import dataclasses

import pytest

from audiorl_cli import console_scores
from audiorl_cli.evaluate.bootstrap import Bootstrap, Interval, RateIntervals
from audiorl_cli.evaluate.comparison import Comparison
from audiorl_cli.evaluate.confusions import Confusion, Confusions
from audiorl_cli.evaluate.matched_pairs import MatchedPairs
from audiorl_cli.evaluate.metrics import Conditions, Hallucinations, Metrics, ReportedSelection
from audiorl_cli.evaluate.score import score
from audiorl_cli.evaluate.slices import Slice
from audiorl_cli.evaluate.utterance import scored
from audiorl_cli.text import normaliser
from audiorl_cli.wer import align

NOTHING = Confusions((), (), ())
WITHIN = Interval(0.1, 0.4)
METRICS = Metrics(
    conditions=Conditions("tiny", "float32", "", "", 8, "basic", 1, ""),
    rows=2,
    hours=0.01,  # 36 s of audio in 2.5
    reference_words=4,
    substitutions=1,
    insertions=0,
    deletions=2,
    hits=1,
    wer=0.75,
    mer=0.75,
    wil=0.875,
    reference_characters=16,
    cer=0.125,
    bootstrap=Bootstrap(),
    units=2,
    intervals=None,
    hallucinations=Hallucinations(0, 0.0, None, 0, 0, 0, 0),
    token_limit_share=0.0,
    seconds=2.5,
    rtfx=14.4,
    slices=(Slice("room", "hall", 2, 4, 1, 0, 2, 0.75, WITHIN, 1), Slice("room", "lab", 1, 1, 0, 0, 0, 0.0, None, 0)),
    confusions=NOTHING,
)
CHANGE = Comparison(
    model="run",
    baseline_model="before",
    wer=0.25,
    baseline_wer=0.5,
    wer_difference=-0.25,
    wer_difference_interval=Interval(-0.4, -0.1),
    probability_of_improvement=0.991,
    matched_pairs=MatchedPairs(60, -0.5, -2.5, 0.0124),
    cer=0.1,
    baseline_cer=0.1,
    cer_difference=0.0,
    substitutions_difference=0,
    insertions_difference=0,
    deletions_difference=-1,
    better=3,
    worse=1,
    same=2,
    baseline_normaliser=None,
)


def _shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_what_chose_the_model_is_said_and_where_its_wer_is_too_low(capsys: pytest.CaptureFixture[str]) -> None:
    last = ReportedSelection("warmstart", 9, 9)
    best = ReportedSelection("train", 4, 6, "held", "abcdef", 2, 0.5, 3, shared=2)
    phrase = "step 4 of 6 of train, chosen by the lowest WER (50.00 %) of 3 measured on the validation set held "
    low = "utterances are of the validation set that chose the model (train step 4): this WER is a selected minimum"
    for selections, lines in (
        ((last,), ["the model: step 9 of 9 of warmstart, the last: no validation set chose it"]),
        ((best,), [f"the model: {phrase}(2 utterances, digest abcdef)", f"all 2 {low}, and optimistic"]),
        ((dataclasses.replace(best, shared=0),), [f"the model: {phrase}(2 utterances, digest abcdef)"]),
        (
            (dataclasses.replace(best, shared=1), last),
            ["the model: step 9 of 9", f"1 of the 2 {low}, and optimistic"],
        ),
    ):
        console_scores.totals(dataclasses.replace(METRICS, selections=selections), (), ())
        shown = _shown(capsys)[3:-1]
        assert len(shown) == len(lines)
        assert all(line.startswith(expected) for line, expected in zip(shown, lines, strict=True))


def test_totals_without_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    console_scores.totals(METRICS, (), ())
    assert _shown(capsys) == [
        "WER 75.00 %: 4 words, 1 substitution, 0 insertions, 2 deletions; 2 utterances, normaliser basic",
        "CER 12.50 %, MER 75.00 %, WIL 87.50 %",
        "2.5 s, 14.4 s of audio a second (RTFx)",
        "hallucinated: none of 2 utterances",
    ]


def test_totals_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = dataclasses.replace(
        METRICS,
        intervals=RateIntervals(WITHIN, WITHIN, WITHIN, Interval(0.0, 1.0)),
        bootstrap=Bootstrap(cluster="speaker"),
        hallucinations=Hallucinations(1, 0.5, Interval(0.0, 1.0), 1, 1, 1, 0),
        token_limit_share=0.5,
        confusions=Confusions(
            (Confusion("a", "the", 3), Confusion("b", "c", 1)), (Confusion("", "uh", 2),), (Confusion("of", "", 1),)
        ),
    )
    console_scores.totals(found, (), ["room"])
    assert _shown(capsys) == [
        "WER 75.00 % (10.00 to 40.00): 4 words, 1 substitution, 0 insertions, 2 deletions; 2 utterances, "
        "normaliser basic",
        "CER 12.50 % (10.00 to 40.00), MER 75.00 % (10.00 to 40.00), WIL 87.50 % (0.00 to 100.00); "
        "95 % intervals by speaker, 2 alone: too few to trust",
        "2.5 s, 14.4 s of audio a second (RTFx)",
        "50.00 % of the transcripts were cut at --max-new-tokens",
        "hallucinated: 50.00 % (0.00 to 100.00), 1 of 2 utterances: 1 of 1 without speech, 1 loop, 0 too long",
        "by room",
        "room rows words WER 95 % interval hallucinated",
        "hall 2 4 75.00 % 10.00 to 40.00 1",
        "lab 1 1 0.00 % - 0",
        "most often",
        "said > written, how many times",
        "substituted a > the 3, b > c 1",
        "inserted uh 2",
        "deleted of 1",
    ]


def test_the_worst_are_shown_as_they_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    one = scored(
        normaliser("none"),
        id="u1",
        speaker="",
        duration_s=1.0,
        reference_raw="the cat sat on a mat",
        hypothesis_raw="the cat set it a mat mat",
        tokens=1,
        at_token_limit=False,
        prompt="",
        columns={},
    )
    console_scores.totals(METRICS, [one], ())
    assert _shown(capsys)[-3:] == [
        "worst",
        "utterance WER [said > written] [- left out] [+ put in]",
        "u1 50.00 % the cat [sat on > set it] a [+ mat] mat",
    ]
    [alignment] = align(["a b c d"], ["a c d"])
    assert console_scores.marked(alignment) == "a [- b] c d"


def test_a_long_list_of_slices_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    many = tuple(dataclasses.replace(METRICS.slices[0], value=f"room{number}") for number in range(23))
    console_scores.totals(dataclasses.replace(METRICS, slices=many), (), ["room", "room"])
    shown = _shown(capsys)
    assert shown[-2].startswith("room19 ")
    assert shown[-1] == "and 3 more in metrics.json"
    assert shown.count("by room") == 1


def test_a_comparison_says_whether_it_is_chance(capsys: pytest.CaptureFixture[str]) -> None:
    console_scores.comparison(CHANGE)
    assert _shown(capsys) == [
        "before run change",
        "WER 50.00 % 25.00 % -25.00",
        "CER 10.00 % 10.00 % +0.00",
        "3 utterances better, 1 worse, 2 the same",
        "WER changed by -40.00 to -10.00 (95 % interval); probability of improvement 99.10 %",
        "matched pairs (MAPSSWE): 60 segments, z -2.50, p 0.0124",
    ]


def test_a_comparison_that_cannot_say(capsys: pytest.CaptureFixture[str]) -> None:
    console_scores.comparison(
        dataclasses.replace(
            CHANGE,
            wer_difference_interval=None,
            probability_of_improvement=None,
            matched_pairs=MatchedPairs(1, -1.0, None, None),
            baseline_normaliser="none 1",
        )
    )
    shown = _shown(capsys)
    assert shown[0] == "the baseline was counted with normaliser none 1; here it is counted as this was"
    assert shown[-2:] == [
        "3 utterances better, 1 worse, 2 the same",
        "matched pairs (MAPSSWE): 1 segment, all of them alike: no test",
    ]


def test_a_score_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    console_scores.score(score(["a b"] * 20, ["a b"] * 20))
    assert _shown(capsys)[1].endswith("; 95 % intervals by utterance")
    console_scores.score(score(["a b"] * 19, ["a b"] * 19))
    assert _shown(capsys)[1].endswith("; 95 % intervals by utterance, 19 alone: too few to trust")
    console_scores.score(score(["a b"], ["a"]))
    assert _shown(capsys) == [
        "WER 50.00 %: 2 words, 0 substitutions, 0 insertions, 1 deletion; 1 utterance, normaliser none",
        "CER 66.67 %, MER 50.00 %, WIL 50.00 %",
        "hallucinated: none of 1 utterance",
        "most often",
        "said > written, how many times",
        "deleted b 1",
    ]
