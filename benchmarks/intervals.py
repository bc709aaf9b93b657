"""Seconds and memory of 10,000 bootstrap replicates over 10,000 utterances.

    python benchmarks/intervals.py [--utterances 10000] [--replicates 10000]

Made-up counts of 20 words an utterance, one in ten of them wrong. "totals" is what `audiorl eval` and `audiorl score`
make of them: WER, CER, MER and WIL from the same draws. "slice" is the WER alone, "paired" a difference to a baseline,
"speakers" the totals by 100 speakers. "direct" is the same WER interval with one draw of utterances a replicate, as one
would write it down; its time is taken of a fiftieth of the replicates. JSON out, the totals beside their limit.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from audiorl_cli.evaluate.bootstrap import clusters, paired, rate_intervals, resample, wer_interval

_LIMIT_SECONDS: Final = 5.0
_WORDS: Final = 20


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=10_000)
    parser.add_argument("--replicates", type=int, default=10_000)
    arguments = parser.parse_args()
    number, replicates = arguments.utterances, arguments.replicates
    generator = np.random.default_rng(0)
    errors = generator.multinomial(_WORDS, (0.06, 0.02, 0.02, 0.9), size=number)
    counts = np.concatenate(
        [errors, generator.binomial(100, 0.05, size=(number, 1)), np.full((number, 1), 100)], axis=1
    )
    wrong = counts[:, :3].sum(axis=1)
    words = np.stack([wrong, counts[:, [0, 2, 3]].sum(axis=1)], axis=1)
    both = np.stack([wrong, generator.permutation(wrong), words[:, 1]], axis=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {
        "utterances": number,
        "replicates": replicates,
        "totals_s": seconds(lambda: rate_intervals(resample(counts, replicates, 0))),
        "limit_s": _LIMIT_SECONDS,
        "slice_s": seconds(lambda: wer_interval(words, replicates, 0)),
        "paired_s": seconds(lambda: paired(both, replicates, 0)),
        "speakers_s": seconds(
            lambda: rate_intervals(resample(clusters(counts, [row % 100 for row in range(number)]), replicates, 0))
        ),
        "memory_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "direct_s": round(50 * seconds(lambda: direct(words, replicates // 50, generator)), 1),
    }
    print(json.dumps(report, indent=2))


def direct(words: np.ndarray, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """The percentiles of WERs of utterances drawn anew for each replicate."""
    rates = []
    for _ in range(replicates):
        errors, length = words[generator.choice(len(words), len(words))].sum(axis=0)
        rates.append(errors / length)
    percentiles: np.ndarray = np.quantile(rates, (0.025, 0.975))
    return percentiles


def seconds(work: Callable[[], object]) -> float:
    """The time of one call."""
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
