"""What training feeds the model is what transformers' own processor makes of the same recording and conversation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from easydel.trainers.utils import GRPODataCollatorTFDS
from transformers import WhisperFeatureExtractor
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import Qwen3OmniMoeProcessor

from audiorl_cli.bridge import keys
from audiorl_cli.bridge.prompt import Prompter
from audiorl_cli.bridge.rows import prompt_row
from audiorl_cli.bridge.tokenizer import tiny_tokenizer
from audiorl_cli.config import PromptConfig
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.shards import open_shards


class AudioProcessor(Qwen3OmniMoeProcessor):  # type: ignore[misc]
    """transformers' processor without its parts for images and video, which need torchvision and are not called."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return type(argument)


@pytest.fixture(scope="module")
def processor() -> AudioProcessor:
    tokenizer, unused = tiny_tokenizer(), SimpleNamespace(merge_size=2)
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    return AudioProcessor(unused, unused, extractor, tokenizer, chat_template=tokenizer.chat_template)


@pytest.mark.parametrize("system", ["", "You write down what people say."])
def test_ids_features_and_mask_are_the_processors(
    processor: AudioProcessor, system: str, speech: Path, tmp_path: Path
) -> None:
    keys.apply()
    summary = prep(str(speech / "librispeech"), tmp_path / "data", PrepSettings(dtype="float32", workers=1))
    shards = open_shards(tmp_path / "data")
    config = PromptConfig(system=system, instruction="Write it down.")
    prompter = Prompter(tiny_tokenizer(), config)
    numbers = list(range(0, summary.utterances, 7))
    rows = shards.read(numbers)
    length = max(prompter.length(row.num_frames) for row in rows)
    collate = GRPODataCollatorTFDS(max_prompt_length=length, pad_token_id=prompter.pad_token_id)
    prompts = [prompt_row(row, number, prompter, length) for row, number in zip(rows, numbers, strict=True)]
    batch = {key: np.asarray(value) for key, value in collate(prompts).items()}
    assert len({row.num_frames for row in rows}) > 3  # so that rows are padded
    for place, row in enumerate(rows):
        samples, rate = soundfile.read(next((speech / "librispeech").rglob(f"{row.id}.flac")), dtype="float32")
        assert rate == 16_000
        content = [{"type": "audio"}, {"type": "text", "text": config.instruction}]
        turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        text = processor.apply_chat_template(
            [*turns, {"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        # To the window, as the released extractor does by itself. To the longest of a batch, the last two frames of a
        # clip and the count of a last, partial one depend on what stands beside it.
        expected = processor(text=text, audio=[samples], audio_kwargs={"padding": "max_length"}, return_tensors="np")
        valid = batch["attention_mask"][place].astype(bool)
        np.testing.assert_array_equal(batch["input_ids"][place][valid], expected["input_ids"][0])
        heard = expected["feature_attention_mask"][0].astype(bool)
        np.testing.assert_array_equal(batch["feature_attention_mask"][place].nonzero()[0], heard.nonzero()[0])
        np.testing.assert_allclose(
            batch["input_features"][place][:, : heard.sum()], expected["input_features"][0][:, heard], atol=1e-4, rtol=0
        )
        assert heard.sum() == -(-len(samples) // 160)
