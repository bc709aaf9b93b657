"""Transcription prompts as ids: the checkpoint's own chat template, its audio placeholder once per audio token.

And what is to be foretold after them.
"""

import jinja2
from transformers import PreTrainedTokenizerBase

from audiorl_cli import core
from audiorl_cli.bridge.tokenizer import AUDIO_PAD, tiny_tokenizer
from audiorl_cli.config import PromptConfig
from audiorl_cli.errors import ConfigError, ModelError

__all__ = ["Prompter", "target", "tiny_tokenizer"]


class Prompter:
    """The prompt of a recording, whose only variable is how many audio tokens it takes.

    Raises ModelError for a tokenizer without the audio placeholder or padding, or a chat template that does not put
    exactly one placeholder into the prompt; ConfigError where the placeholder stands in the prompt's own words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> None:
        self.config = config
        for name, words in (("prompt.system", config.system), ("prompt.instruction", config.instruction)):
            if AUDIO_PAD in words:
                raise ConfigError(
                    name, expected=f"words without {AUDIO_PAD}", got=repr(words), fix="The chat template places it."
                )
        self.audio_token_id = _audio_token_id(tokenizer)
        self.pad_token_id = _pad_token_id(tokenizer)
        self._text = _rendered(tokenizer, config)
        # The template writes every special token itself; the tokenizer must not add its own around them.
        ids: list[int] = tokenizer(self._text, add_special_tokens=False)["input_ids"]
        found = ids.count(self.audio_token_id)
        if found != 1:
            raise ModelError(
                "chat template",
                expected=f"one {AUDIO_PAD} in the prompt of one recording",
                got=f"{found} in {self._text!r}",
                fix="Use the chat template of a Qwen3-Omni checkpoint (chat_template.jinja or tokenizer_config.json).",
            )
        place = ids.index(self.audio_token_id)
        self._before, self._after = ids[:place], ids[place + 1 :]

    def ids(self, num_frames: int) -> list[int]:
        """Token ids of the generation prompt for `num_frames` valid log-mel frames (10 ms each).

        The placeholder stands `core.audio_tokens(num_frames)` times; `num_frames` >= 1, else ValueError.
        """
        return [*self._before, *([self.audio_token_id] * _tokens(num_frames)), *self._after]

    def length(self, num_frames: int) -> int:
        """`len(self.ids(num_frames))` in tokens, without building the list."""
        return len(self._before) + _tokens(num_frames) + len(self._after)

    def text(self, num_frames: int) -> str:
        """The prompt as a person reads it, the audio as one placeholder whatever `num_frames` is."""
        _tokens(num_frames)
        return self._text


def target(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids to be foretold of a transcript: those of its text, and the end of the turn.

    All of it is text: a transcript in which `<|im_end|>` or `<|audio_pad|>` is written ends no turn and hears nothing.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def _tokens(num_frames: int) -> int:
    if num_frames < 1:
        raise ValueError(f"num_frames: expected >= 1, got {num_frames}")
    return core.audio_tokens(num_frames)


def _audio_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    token = tokenizer.convert_tokens_to_ids(AUDIO_PAD)
    # Tokenizers answer None, or the id of their unknown token, for a word they do not have.
    if not isinstance(token, int) or tokenizer.convert_ids_to_tokens(token) != AUDIO_PAD:
        raise ModelError(
            "tokenizer",
            expected=f"a token {AUDIO_PAD}",
            got="none",
            fix="Use the tokenizer of a Qwen3-Omni checkpoint.",
        )
    return token


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if not isinstance(tokenizer.pad_token_id, int):
        raise ModelError(
            "tokenizer",
            expected="a padding token",
            got="none",
            fix="Name one (pad_token) in its tokenizer_config.json.",
        )
    return tokenizer.pad_token_id


def _rendered(tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> str:
    if not tokenizer.chat_template:
        raise ModelError(
            "tokenizer",
            expected="a chat template",
            got="none",
            fix="Put the checkpoint's chat_template.jinja (or tokenizer_config.json) beside its tokenizer.",
        )
    user = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": config.instruction}]}
    system = [{"role": "system", "content": config.system}] if config.system else []
    try:
        text = tokenizer.apply_chat_template([*system, user], add_generation_prompt=True, tokenize=False)
    except (jinja2.TemplateError, TypeError) as error:  # TypeError: a template that joins text to a list of content
        raise ModelError(
            "chat template",
            expected="a template that takes a user turn of audio and text",
            got=str(error),
            fix="Use the chat template of a Qwen3-Omni checkpoint.",
        ) from error
    return str(text)
