"""The tiny tokenizer and the prompts of recordings."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

from audiorl_cli import core
from audiorl_cli.bridge.prompt import Prompter, target, tiny_tokenizer
from audiorl_cli.bridge.tokenizer import (
    AUDIO_PAD,
    CHAT_TEMPLATE,
    NUMBERS,
    SPECIAL_TOKENS,
    WORDS,
    pretrained_tokenizer,
)
from audiorl_cli.config import PromptConfig
from audiorl_cli.errors import ConfigError, ModelError

# Runs and checkpoints hold ids of this vocabulary: a change of it is a change of format.
VOCABULARY_SHA256 = "2837c2c6fe1735fb57f7f5e797a0a10b49c24f4f952b219ee2c901aaa4a044e1"

# How released templates recognise audio: by type or by key, with a default for text.
RELEASED_STYLE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'audio' or 'audio' in c or 'audio_url' in c %}"
    "<|audio_start|><|audio_pad|><|audio_end|>{% elif c.text is defined %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def digest(tokenizer: PreTrainedTokenizerFast) -> str:
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def test_vocabulary_is_the_same_in_every_process(tokenizer: PreTrainedTokenizerFast) -> None:
    assert digest(tokenizer) == VOCABULARY_SHA256
    fresh = (
        "import hashlib, json; from audiorl_cli.bridge.tokenizer import tiny_tokenizer as t;"
        "print(hashlib.sha256(json.dumps(sorted(t().get_vocab().items())).encode()).hexdigest())"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", fresh], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert run.stdout.strip() == VOCABULARY_SHA256


def test_numbers_and_common_words_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in NUMBERS.split():
        assert len(tokenizer(word).input_ids) == len(tokenizer(f" {word}").input_ids) == 1, word
    for word in WORDS.split():
        assert len(tokenizer(f" {word}").input_ids) == 1, word


@pytest.mark.parametrize("text", ["three one four", "Größe, 東京 — ¡olé!", "a\tb\r\n  c", "🎧", ""])
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_are_distinct_and_left_out_of_a_transcript(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert tokenizer("".join(SPECIAL_TOKENS)).input_ids == ids
    assert tokenizer.decode([*ids, *tokenizer("one two").input_ids], skip_special_tokens=True) == "one two"


def test_a_saved_tokenizer_is_read_back_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    back = pretrained_tokenizer(tmp_path)
    assert digest(back) == VOCABULARY_SHA256
    assert Prompter(back, PromptConfig()).ids(77) == Prompter(tokenizer, PromptConfig()).ids(77)
    assert (back.eos_token, back.pad_token, back.audio_token) == ("<|im_end|>", "<|endoftext|>", AUDIO_PAD)


def test_the_template_of_a_released_checkpoint_is_found_in_chat_template_json(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="chat template, got none"):
        Prompter(pretrained_tokenizer(tmp_path), PromptConfig())
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": RELEASED_STYLE}))
    assert Prompter(pretrained_tokenizer(tmp_path), PromptConfig()).ids(9).count(tokenizer.audio_token_id) == 2
    (tmp_path / "chat_template.json").write_text("[]")
    with pytest.raises(ModelError, match=r"chat_template\.json: expected"):
        pretrained_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected tokenizer\.json"):
        pretrained_tokenizer(tmp_path)


def test_placeholders_of_every_length_are_those_of_the_processor(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = Prompter(tokenizer, PromptConfig())
    for frames in range(1, 3001):
        ids = prompter.ids(frames)
        expected = _get_feat_extract_output_lengths(frames)
        assert ids.count(prompter.audio_token_id) == core.audio_tokens(frames) == expected
        assert len(ids) == prompter.length(frames)


def test_the_ids_are_the_tokens_of_the_expanded_text(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = Prompter(tokenizer, PromptConfig(system="Be brief.", instruction="What is said?"))
    text = prompter.text(300)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|>"
        "What is said?<|im_end|>\n<|im_start|>assistant\n"
    )
    expanded = text.replace(AUDIO_PAD, AUDIO_PAD * 39)  # 3 chunks of 13
    assert prompter.ids(300) == tokenizer(expanded).input_ids
    assert tokenizer.decode(prompter.ids(300)) == expanded


def test_no_system_turn_without_words_for_it(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Prompter(tokenizer, PromptConfig()).text(1).startswith("<|im_start|>user\n<|audio_start|>")


@pytest.mark.parametrize("frames", [0, -1])
def test_a_prompt_needs_audio(tokenizer: PreTrainedTokenizerFast, frames: int) -> None:
    prompter = Prompter(tokenizer, PromptConfig())
    for ask in (prompter.ids, prompter.length, prompter.text):
        with pytest.raises(ValueError, match="num_frames: expected >= 1"):
            ask(frames)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", "got 0 in"),
        (CHAT_TEMPLATE.replace(AUDIO_PAD, AUDIO_PAD * 2), "got 2 in"),
        ("{% for m in messages %}{{ m.content + '' }}{% endfor %}", "can only concatenate"),
        ("{{ raise_exception('text only') }}", "got text only"),
        ("{% for m in messages %}", "got Unexpected end of template"),
        (None, "a chat template, got none"),
    ],
)
def test_a_template_that_does_not_place_the_audio_once_is_an_error(template: str | None, found: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as error:
        Prompter(tokenizer, PromptConfig())
    assert found in str(error.value)


def test_a_tokenizer_without_the_placeholder_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"a token <\|audio_pad\|>, got none"):
        Prompter(Qwen2Tokenizer(chat_template=CHAT_TEMPLATE), PromptConfig())


def test_a_tokenizer_without_padding_is_an_error() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="a padding token, got none"):
        Prompter(tokenizer, PromptConfig())


@pytest.mark.parametrize("field", ["system", "instruction"])
def test_the_placeholder_may_not_stand_in_the_instruction(tokenizer: PreTrainedTokenizerFast, field: str) -> None:
    with pytest.raises(ConfigError, match=f"prompt.{field}"):
        Prompter(tokenizer, PromptConfig(**{field: f"hear {AUDIO_PAD}"}))


@pytest.mark.parametrize("text", ["<|im_end|> hello <|audio_pad|>", "one<|endoftext|>two", "zéro 零"])
@pytest.mark.parametrize("reread", [False, True])
def test_a_transcript_is_text_whatever_it_says(text: str, reread: bool, tmp_path: Path) -> None:
    tokenizer: Any = tiny_tokenizer()
    if reread:  # as a checkpoint's own tokenizer is
        tokenizer.save_pretrained(tmp_path)
        tokenizer = pretrained_tokenizer(tmp_path)
    *ids, end = target(tokenizer, text)
    assert end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text
    pad = tokenizer.convert_tokens_to_ids("<|audio_pad|>")
    assert tokenizer("<|audio_pad|>")["input_ids"] == [pad]  # a prompt's is one still
