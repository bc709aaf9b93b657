"""`audiorl eval` against a plain loop of transformers' `generate` over the same clips and checkpoint, on this machine.

    python benchmarks/eval.py [--clips 32] [--tokens 64] [--rounds 3] [--even]

Noise of the lengths of a test set: 1.5 s and more, half of it below 6 s, 7.5 s on average, as in LibriSpeech's; with
`--even`, as many clips of each length from 2 to 30 s. Greedy, as many tokens as `audiorl eval` allows by default,
float32, the features ready in shards for both. The loop takes one clip after another without padding, as a model card's
example does, attending within the audio tower's windows (`audiorl_cli/bridge/reference.py`). Rounds of one and of the
other in turn, after one of each to warm up, in which ours is compiled. JSON out: RTFx (seconds of audio a second) of
both, the ratio beside its limit, and how many transcripts are the same.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from audiorl_cli.bridge import quiet

quiet.silence()

import bench_model  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from audiorl_cli.bridge import checkpoint, reference  # noqa: E402
from audiorl_cli.bridge.prompt import Prompter  # noqa: E402
from audiorl_cli.config import PromptConfig  # noqa: E402
from audiorl_cli.core import CLIP_SECONDS  # noqa: E402
from audiorl_cli.data.shards import Shards, open_shards  # noqa: E402
from audiorl_cli.evaluate.transcripts import evaluate  # noqa: E402

_LIMIT: Final = 4.0


def main() -> None:
    """Transcribe the clips both ways, and print how fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--even", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        bench_model.write(model)
        shards = open_shards(bench_model.shards(Path(folder), lengths(arguments.clips, arguments.even)))
        ours, theirs = checkpoint.load(str(model)), reference.load(model)
        ours_s, theirs_s = [], []
        for _ in range(1 + arguments.rounds):
            report = evaluate(ours, shards, PromptConfig(), max_new_tokens=arguments.tokens)
            ours_s.append(report.metrics.seconds)
            began = time.perf_counter()
            plain = transcripts(theirs, ours.tokenizer, shards, arguments.tokens)
            theirs_s.append(time.perf_counter() - began)
    audio = 3600 * report.metrics.hours
    compiled, theirs_each = ours_s[0], statistics.median(theirs_s[1:])
    found = {
        "clips": arguments.clips,
        "audio_seconds": round(audio, 1),
        "lengths": "even" if arguments.even else "of a test set",
        "new_tokens": arguments.tokens,
        "rtfx": {
            "audiorl": round(audio / statistics.median(ours_s[1:]), 2),
            "audiorl, compiled first": round(audio / compiled, 2),
            "transformers": round(audio / theirs_each, 2),
        },
        "ratio": round(theirs_each / statistics.median(ours_s[1:]), 2),
        "limit_at_least": _LIMIT,
        "rounds": [round(slow / fast, 2) for slow, fast in zip(theirs_s[1:], ours_s[1:], strict=True)],
        "same_transcripts": sum(one.hypothesis_raw == text for one, text in zip(report.utterances, plain, strict=True)),
    }
    print(json.dumps(found, indent=2))


def lengths(count: int, even: bool) -> list[float]:
    """Seconds of each clip."""
    places = (np.arange(count) + 0.5) / count
    spoken = np.minimum(1.5 - 6.0 * np.log1p(-places), CLIP_SECONDS)
    return [float(seconds) for seconds in (np.linspace(2.0, CLIP_SECONDS, count) if even else spoken)]


def transcripts(model: Any, tokenizer: Any, shards: Shards, tokens: int) -> list[str]:
    """The plain loop: one clip at a time, cut to its valid frames."""
    prompter = Prompter(tokenizer, PromptConfig())
    found = []
    for number in range(shards.rows):
        (row,) = shards.read([number])
        ids = torch.tensor([prompter.ids(row.num_frames)])
        features = torch.tensor(row.features[None, :, : row.num_frames], dtype=torch.float32)
        sequence = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features,
            feature_attention_mask=torch.ones((1, row.num_frames), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
        )
        found.append(tokenizer.decode(sequence[0, ids.shape[1] :], skip_special_tokens=True))
    return found


if __name__ == "__main__":
    main()
