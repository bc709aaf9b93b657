"""Tokenizers: a checkpoint's own with its chat template, and the one of the built-in tiny model.

The latter is byte-level BPE in the layout of Qwen's, learnt from the words below: any text can be written with it
(every byte is a token), and number words and common English words are one token each.
"""

import json
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2Tokenizer
from transformers.utils import LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE

from audiorl_cli.errors import ModelError

AUDIO_PAD: Final = "<|audio_pad|>"
"""The placeholder of Qwen3-Omni prompts; stands once for each vector of the audio tower."""

# The names by which transformers' Qwen3-Omni processor asks its tokenizer for them.
MEDIA_TOKENS: Final = {
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "audio_token": AUDIO_PAD,
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
TTS_TOKENS: Final = ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>")
SPECIAL_TOKENS: Final = (END_OF_TEXT, TURN_START, TURN_END, *MEDIA_TOKENS.values(), *TTS_TOKENS)

# A turn is its role, a line break and its content; each recording is one placeholder between its two marks.
CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}
{{- part.text -}}
{%- else -%}
{{- raise_exception('the tiny model hears audio and reads text, it has no ' + part.type) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

NUMBERS: Final = """
zero one two three four five six seven eight nine oh ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand
"""
FIRST_WORDS: Final = "system user assistant Transcribe"

# Common words of read and spoken English, and those of the prompts.
WORDS: Final = """
first second third next the of and a to in he was that it his i with as had you for her she not but at on is him be my
they have from all this which by so were said me there who no or when if an we are what would them been could out
their up into will do then now more very man your some little about upon has its did like come came time old over down
than other only any made know go see must such well before after should great never here went how long much where way
good day most thing nothing might again himself away every us our own can these may say house back shall eyes life too
men still hand think without yet through once take two night young father mother people world found just work place
head because off thought many let look even make being get face heart room put while always last under seemed against
left years part both love part things last name took looked told saw knew right asked turned called between began kept
half side ever enough moment gave felt door words water hands done far few cannot nor small white black light home end
white word since gone mind those against another whom whole nature present poor soon given rather almost sir lord king
captain certain whether above below near mister missus doctor child children boy girl woman women friend morning
evening country city street river sea land earth ground tree air fire sun cold dark deep high low open full strong
happy dear new true same different important possible want need help tell show give find feel leave keep bring begin
stand sit walk run turn speak talk hear read write learn system user assistant transcribe audio into text please
speech language english ing ed er est ly ness ment tion able less un re con pre
"""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The built-in tokenizer: the same vocabulary in every process, about a thousand tokens, the specials last.

    It carries its chat template; `<|im_end|>` ends a turn and `<|endoftext|>` pads, as in the released checkpoints.
    """
    vocabulary, merges = _learnt()
    for token in SPECIAL_TOKENS:
        vocabulary[token] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        eos_token=TURN_END,
        padding_side="left",
        model_max_length=32_768,
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens=MEDIA_TOKENS,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer in a Hugging Face folder. AutoTokenizer would make an empty one up."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def pretrained_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a Hugging Face folder, with the chat template the checkpoint came with.

    The released Qwen3-Omni keeps its template in chat_template.json, which transformers reads for a processor and never
    for a tokenizer. Raises ModelError where no tokenizer can be read or the template file is not what it should be.
    """
    if not has_tokenizer(folder):
        raise ModelError(
            str(folder),
            expected="tokenizer.json, or vocab.json and merges.txt",
            got="neither",
            fix="Put the checkpoint's tokenizer files beside its config.json.",
        )
    try:
        # Given a config it does not look for one, whose model_type it would warn about.
        tokenizer = AutoTokenizer.from_pretrained(folder, config=Qwen2Config(), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            str(folder), expected="a tokenizer", got=str(error).splitlines()[0], fix="Download the checkpoint again."
        ) from error
    template = folder / LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE
    if not tokenizer.chat_template and template.is_file():
        try:
            tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                str(template),
                expected='{"chat_template": "..."}',
                got=repr(error),
                fix="Download the checkpoint again.",
            ) from error
    return tokenizer


def _learnt() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE that is trained until every word above is one token."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # A transcript's first word has no space before it, all others have one; a number may be either.
    text = [f" {word}" for word in f"{NUMBERS} {WORDS}".split()] + f"{NUMBERS} {FIRST_WORDS}".split()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # not reached: the merges run out first
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    learner.train_from_iterator(text, trainer)
    learnt = json.loads(learner.to_str())["model"]
    return learnt["vocab"], [(left, right) for left, right in learnt["merges"]]
