"""A reward that knows no words: how many digits were said, and their sum, as a form or an invoice may tell."""

from audiorl_cli.data.speech import DIGITS


def agrees(normalised_completion: str, count: int, total: int) -> float:
    """1 where the completion is `count` digits that add up to `total`, else 0. Their order has no say."""
    words = normalised_completion.split()
    if len(words) != int(count) or not all(word in DIGITS for word in words):
        return 0.0
    return float(sum(map(DIGITS.index, words)) == int(total))
