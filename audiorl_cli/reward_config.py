"""What a run rewards: the `[reward]` section of its config, and what each reward by name can come to."""

import math
import re
from dataclasses import dataclass, field
from typing import Final, Literal

from audiorl_cli.errors import check

# The least and the most of each reward of rl/rewards.py, before its weight. Penalties lie below 0.
REWARD_RANGES: Final[dict[str, tuple[float, float]]] = {
    "wer": (0, 1),
    "cer": (0, 1),
    "exact": (0, 1),
    "edit_distance": (-1, 0),
    "length_ratio": (0, 1),
    "insertion": (-1, 0),
    "repetition": (-1, 0),
    "hallucination": (-1, 0),
    "keyword_recall": (0, 1),
    "format": (0, 1),
    "boilerplate": (-1, 0),
}

_HEARD: Final = "audio|clip|recording|speaker|speech|voice"
_TOLD: Final = "(?:is|contains|goes|reads|said|says|states)"
# What models say around a transcript. Each needs a colon, a quotation mark or a line of its own: without one it may
# well be what was said.
BOILERPLATE: Final = (
    # "Sure! Here is the transcription of the audio:", "The speaker says the following:", "Transcript:"
    r"\A\W*(?:(?:certainly|of course|okay|sure)\b\W*)?(?:here(?:[\u2019']s|\s+is)\s+)?(?:(?:a|the|this|your)\s+)?"
    rf"(?:transcript|transcription|transcribed text|{_HEARD})(?:\s+(?:for|from|in|of)\s+(?:the|this)\s+(?:{_HEARD}))?"
    rf"(?:\s+{_TOLD})?(?:\s+(?:as follows|the following))?\s*:\s*",
    # The audio says "..."
    rf"\A\W*(?:the|this)\s+(?:audio|clip|recording)\s+{_TOLD},?\s+(?=[\u2018\u201c'\"])",
    r"\n\W*(?:i hope this helps|is there anything else|(?:please )?let me know)\b(?s:.*)\Z",
)

_NEEDS: Final = {"keyword_recall": "keywords", "format": "format", "boilerplate": "boilerplate_patterns"}


@dataclass(frozen=True)
class RewardConfig:
    """What a completion earns: the sum of rewards by weight, each weighed as it is wanted.

    `weights`: reward -> weight in the sum; a reward is one of REWARD_RANGES (rl/rewards.py says what each is) or a
    function of yours, `module:function` (rl/custom.py says what it is given).
    `normaliser`: a name from text.py, applied to both sides.
    `boilerplate`: what a model says around a transcript is compared with the rest ("keep"), or taken out before
    ("strip"). To punish it, in either case, give the reward boilerplate a weight.
    `boilerplate_patterns`: regular expressions, in any case, of what counts as such; the ones built in are English.
    `keywords`: words and phrases of keyword_recall.
    `format`: the regular expression that the whole of a completion, as decoded, has to match for the reward format.
    """

    weights: dict[str, float] = field(default_factory=lambda: {"wer": 1.0})
    normaliser: str = "basic"
    boilerplate: Literal["keep", "strip"] = "keep"
    boilerplate_patterns: tuple[str, ...] = BOILERPLATE
    keywords: tuple[str, ...] = ()
    format: str = ""

    def __post_init__(self) -> None:
        check("reward.weights", bool(self.weights), "at least one reward", self.weights)
        for name in self.weights:
            known = name in REWARD_RANGES or is_custom(name)
            check("reward.weights", known, f"one of {', '.join(REWARD_RANGES)}, or module:function", name)
        for where, patterns in (("boilerplate_patterns", self.boilerplate_patterns), ("format", (self.format,))):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    check(f"reward.{where}", False, f"a regular expression ({error})", pattern)
        for reward, where in _NEEDS.items():
            given = getattr(self, where)
            check(f"reward.{where}", bool(given) or reward not in self.weights, f"some, for the reward {reward}", given)
            used = reward in self.weights or (reward == "boilerplate" and self.boilerplate == "strip")
            own = given != RewardConfig.__dataclass_fields__[where].default
            check(f"reward.{where}", used or not own, f"a weight for the reward {reward} with it", given)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most that a completion can earn; infinite with functions of the user's."""
        ends = [
            sorted(weight * end for end in REWARD_RANGES.get(name, (-math.inf, math.inf)))
            for name, weight in self.weights.items()
            if weight
        ]
        return math.fsum(low for low, _ in ends), math.fsum(high for _, high in ends)


def is_custom(name: str) -> bool:
    """Whether `name` is of the form module:function."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))
