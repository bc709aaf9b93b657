"""What a person sees of a forecast, of curves, and of what is suspected of a run."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final

from rich.markup import escape

from audiorl_cli.console import count, err, percent, say, table

if TYPE_CHECKING:
    from audiorl_cli.rl.curves import Curves
    from audiorl_cli.rl.forecast import Forecast, Group
    from audiorl_cli.rl.metrics import Validation
    from audiorl_cli.rl.tripwires import Suspicion

_BINS: Final = 8
_BAR: Final = 30  # characters


def forecast(found: "Forecast", groups: "Sequence[Group]", folder: Path) -> None:
    """What there is to learn from, and how the rewards of the groups are spread."""
    size = f"{found.rows} groups of {found.group_size} at temperature {found.temperature:g}"
    say(f"{size}: reward {found.reward_mean:.3f}, {found.reward_std:.3f} within a group")
    say(
        f"without spread, and nothing to learn: {percent(found.zero_spread_share)} of the groups "
        f"({percent(found.solved_share)} without any error)"
    )
    if found.wer_mean is None or found.wer_best is None:
        say("no reference has a word: there is no WER")
    else:
        say(f"WER {percent(found.wer_mean)}; with the best of each group (the oracle) {percent(found.wer_best)}")
    say(
        f"completions of {found.completion_tokens_mean:.1f} tokens, at most {found.completion_tokens_max}; "
        f"{percent(found.truncated_share)} cut off at the limit"
    )
    table("", ("mean reward of a group", "groups", ""), _histogram([fmean(one.rewards) for one in groups]))
    say(f"every group, the totals and a picture are in {folder}")


def _histogram(values: list[float]) -> list[tuple[str, int, str]]:
    low, high = min(values), max(values)
    width = (high - low) / _BINS or 1.0
    counts = Counter(min(int((value - low) / width), _BINS - 1) for value in values)
    edges = [low + place * width for place in range(max(counts) + 2)]
    longest = max(counts.values())
    return [
        (f"{edges[place]:.2f} to {edges[place + 1]:.2f}", counts[place], "█" * round(_BAR * counts[place] / longest))
        for place in range(max(counts) + 1)
    ]


def curves(drawn: "Curves") -> None:
    """What was drawn, and where it is."""
    say(f"{count(len(drawn.runs), 'run')}, {count(drawn.steps, 'step')}: {', '.join(map(str, drawn.files))}")


def validation(found: "Validation", best: "Validation") -> None:
    """How well a step transcribes what the run does not learn from."""
    than = "the best" if found.step == best.step else f"{percent(best.wer)} at step {best.step} is the best"
    err.print(f"step {found.step}, held out: WER {percent(found.wer)} ({than})", style="cyan", soft_wrap=True)


def notice(line: str) -> None:
    """What a person should know of a run's settings."""
    err.print(f"[bold yellow]note[/] {escape(line)}", soft_wrap=True)


def suspicion(found: "Suspicion") -> None:
    """What the last steps make a person suspect."""
    err.print(f"[bold yellow]step {found.step}[/], {found.kind}: {found.told}", soft_wrap=True)
