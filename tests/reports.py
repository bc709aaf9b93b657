"""Reports to look at, made of pairs of texts: as many as wanted, some of them texts that mean harm to a page."""

from collections.abc import Sequence

from audiorl_cli.evaluate.bootstrap import Bootstrap
from audiorl_cli.evaluate.comparison import compare
from audiorl_cli.evaluate.metrics import Conditions, Results, summarise
from audiorl_cli.evaluate.report import Report
from audiorl_cli.evaluate.utterance import scored
from audiorl_cli.text import normaliser

HARM = (
    "</script><script>window.harm = 1</script>",
    '<img src=x onerror="window.harm = 2"> & \'quoted\' "twice"',
    "<!-- <script> ]]> \u2028 \u2029 {{ 7 * 7 }}",
    "مرحبا بالعالم كيف",  # runs from right to left
    "音 声 café \U0001f600",
)
PAIRS = (
    *((text, f"{text.split()[0]} more") for text in HARM),
    ("one two three", "one too three"),
    ("four five", "four"),
    ("", "uh huh"),
    ("six seven", "six seven seven seven seven"),
    ("right as it is", "right as it is"),
)
_NONE = normaliser("none")


def results(pairs: Sequence[tuple[str, str]] = PAIRS, model: str = "runs/<b>bold</b> & co") -> Results:
    """Totals and utterances of these references and hypotheses, by two speakers."""
    conditions = Conditions(
        model, "float32", "d" * 64, f"<|audio|>{HARM[0]}", 8, _NONE.name, _NONE.version, _NONE.digest
    )
    utterances = [
        scored(
            _NONE,
            id=f"<i>{number}</i>",
            speaker=("ann", 'b"ob')[number % 2],
            duration_s=1.0 + number % 7,
            reference_raw=reference,
            hypothesis_raw=hypothesis,
            tokens=len(hypothesis.split()),
            at_token_limit=number == 2,
            prompt="",
            columns={"room": HARM[number % 2]},
        )
        for number, (reference, hypothesis) in enumerate(pairs)
    ]
    return summarise(utterances, conditions, 3.0, Bootstrap(200), by=["room"])


def compared(ours: Results, baseline: Results) -> Report:
    """The report of `ours` against `baseline`."""
    return Report(ours.metrics, ours.utterances, compare(ours, baseline))
