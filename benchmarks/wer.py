"""Word errors of pairs a second: ours, which rewards and scores are made of, against jiwer called for each pair.

And the seconds that the alignment of one line of nine thousand words takes, a tenth of them misread.

    python benchmarks/wer.py [REFERENCES HYPOTHESES]

Files of lines `id <tab> text` with the same ids in the same order; made-up digits where none are given. JSON out.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jiwer

from audiorl_cli.data.speech import DIGITS
from audiorl_cli.wer import align, count_words


def made_up(pairs: int) -> tuple[list[str], list[str]]:
    """References of ten digits, and hypotheses in which a tenth of them is another."""
    chance = random.Random(0)
    references = [[chance.choice(DIGITS) for _ in range(10)] for _ in range(pairs)]
    hypotheses = [[chance.choice(DIGITS) if chance.random() < 0.1 else word for word in row] for row in references]
    return [" ".join(row) for row in references], [" ".join(row) for row in hypotheses]


def pairs_per_second(count: Callable[[str, str], object], references: list[str], hypotheses: list[str]) -> float:
    """Pairs a second of one pass over all of them."""
    started = time.perf_counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        count(reference, hypothesis)
    return len(references) / (time.perf_counter() - started)


def main() -> None:
    """Measure both on the same pairs."""
    if len(sys.argv) == 3:
        references, hypotheses = (
            [line.partition("\t")[2] for line in Path(name).read_text(encoding="utf-8").splitlines()]
            for name in sys.argv[1:]
        )
    else:
        references, hypotheses = made_up(2000)
    ours = pairs_per_second(count_words, references, hypotheses)
    theirs = pairs_per_second(jiwer.process_words, references, hypotheses)
    long_reference, long_hypothesis = (" ".join(side) for side in made_up(900))
    started = time.perf_counter()
    align([long_reference], [long_hypothesis])
    seconds = time.perf_counter() - started
    report = {
        "pairs": len(references),
        "audiorl_pairs_per_second": round(ours),
        "jiwer_pairs_per_second": round(theirs),
        "speedup": round(ours / theirs, 2),
        "seconds_of_nine_thousand_words": round(seconds, 2),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
