"""What the columns of a manifest, table or data set mean: recording, transcript, speaker, id, part of the recording.

Names that the field's tools write are known (NeMo, Common Voice, Coqui, WeNet, Hugging Face, what Kaldi and lhotse
export), in any case; `Columns` says what the others mean. A column that looks like a part of a recording is never
passed over: the whole recording would be kept under the text of each of its parts.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Literal, cast, get_args

from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.utterance_ids import utterance_id
from audiorl_cli.errors import DataError, UsageError

Meaning = Literal["audio", "text", "speaker", "id", "offset", "end", "duration", "channel", "extra"]

# Of several such columns the first counts; the others are kept.
AUDIO_COLUMNS: Final = (
    *("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav_filename", "audio_path", "audio_file"),
    *("audio_filename", "wav", "wav_path", "wav_file", "filepath", "file_path"),
)
TEXT_COLUMNS: Final = (
    *("text", "sentence", "transcript", "transcription", "normalized_text", "normalised_text", "text_normalized"),
    *(
        "norm_text",
        "text_norm",
        "normalized_transcript",
        "raw_text",
        "raw_transcription",
        "raw_transcript",
        "txt",
        "txt",
    ),
)
SPEAKER_COLUMNS: Final = ("speaker", "speaker_id", "client_id", "spk", "spk_id", "speaker_name")
ID_COLUMNS: Final = ("id", "utterance_id", "utt_id", "uttid", "utt", "key")
_UNIT: Final = r"(_time|_times)?(_s|_secs?|_seconds?|_ms|_msecs?|_millis|_milliseconds?)?"
_OF: Final = r"(segment_|seg_|utterance_|utt_)?"
_PARTS: Final[Mapping[Meaning, re.Pattern[str]]] = {
    "offset": re.compile(rf"({_OF}|clip_|audio_|t_)(offset|start|begin|onset)(_offset)?{_UNIT}"),
    "end": re.compile(rf"({_OF}|clip_|audio_|t_)(end|stop|finish)(_offset)?{_UNIT}"),
    "duration": re.compile(rf"{_OF}(duration|dur){_UNIT}"),
}
_CLOCK: Final = re.compile(r"\s*(?:(\d+):)?(\d+):(\d{1,2}(?:[.,]\d+)?)\s*")  # 0:00:01.5, and as subtitles have it
_MILLISECONDS: Final = re.compile(r"_(ms|msecs?|millis|milliseconds?)$")

# A name with one of these words, and none of the others, is one of a part of a recording.
_CUTS: Final = frozenset(
    (
        *("begin", "begins", "start", "starts", "onset", "offset", "xmin", "tmin", "t0", "seek", "cut", "trim"),
        *("end", "ends", "stop", "stops", "finish", "xmax", "tmax", "t1", "ch", "channel"),
        *("segment", "segments", "interval", "span", "timestamp", "timestamps"),
    )
)
_NO_CUTS: Final = frozenset(
    (
        *("char", "chars", "character", "characters", "token", "tokens", "word", "words", "line", "page", "padding"),
        *("count", "num", "number", "no", "id", "ids", "index", "date", "day", "year", "prob", "logprob", "score"),
        *("silence", "db", "hz", "rate", "ratio", "snr"),
    )
)
# Words that say a part only where nothing else is said: no signal_to_noise.
_FROM_TO: Final = frozenset({"from", "to"})
_AROUND: Final = frozenset(
    {"time", "s", "sec", "secs", "second", "seconds", "ms", "audio", "clip", "segment", "frame", "frames", "sample"}
)
_TIME: Final = re.compile(r"\s*-?(\d+:)?(\d+:)?\d*\.?\d+(e-?\d+)?\s*([-,;]\s*(\d+:)?(\d+:)?\d*\.?\d+\s*)?")
_CHANNELS: Final = {"a": 0, "b": 1, "l": 0, "r": 1, "left": 0, "right": 1}
_SECONDS_MAX: Final = 1e8  # what is larger is a date in seconds
_AGREE: Final = 0.05  # seconds: numbers are rounded where they are written down

# What pandas and Python write for nothing, where everything is text.
NO_VALUES: Final = frozenset({"nan", "NaN", "None", "<NA>", "NaT"})


def is_missing(value: object) -> bool:
    """Return whether a value stands for none: None, NaN, or blank text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def checked_name(value: object, what: str) -> str:
    """Return an id, a speaker or the name of a column by the rule of `utterance_ids`, "" where there is none.

    Raises RejectedError for what the rule refuses.
    """
    try:
        return utterance_id(value) or ""
    except ValueError as error:
        raise RejectedError("bad_row", f"{what} {error}") from error


def seconds(value: object, what: str) -> float | None:
    """Return an offset, end or duration in seconds, None where there is none. Text may be a number or H:MM:SS.

    Raises RejectedError for what is neither.
    """
    if is_missing(value) or (isinstance(value, str) and value in NO_VALUES):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise RejectedError("bad_segment", f"{what} is not a number")
    clock = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if clock:
        hours, minutes, rest = clock.groups(default="0")
        value = 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise RejectedError("bad_segment", f"{what} is not a number") from error
    if not math.isfinite(number) or number < 0 or (number == 0 and what == "duration"):
        raise RejectedError("bad_segment", f"{what} of {number} seconds")
    return number


@dataclass(frozen=True)
class Fields:
    """Which columns of a row mean what; the others are kept. `offset`, `end`, `duration`: all that mean it.

    `channel`: of several, from 0, which only a user can say. `suspects`: columns that would be kept, and look by their
    names like a part of a recording.
    """

    audio: str | None
    text: str | None
    speaker: str | None
    id: str | None = None
    offset: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    duration: tuple[str, ...] = ()
    channel: str | None = None
    suspects: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> "Fields":
        """Return what the columns `names` mean where nothing else is said."""
        return AS_NAMED.fields(names)

    def part(self, row: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Return offset and duration of a row's part of its recording, in seconds, as `decode.Extent` reads them.

        Without an offset the duration is a claim about the whole. Raises RejectedError for an end without a start, one
        that is not after it, and columns that disagree.
        """
        offset, end, duration = (
            _agreed(row, names, what)
            for names, what in ((self.offset, "offset"), (self.end, "end"), (self.duration, "duration"))
        )
        if end is None:
            return offset, duration
        if offset is None:
            raise RejectedError("bad_segment", f"an end of {end:g} s without a start")
        if end <= offset:
            raise RejectedError("bad_segment", f"a part from {offset:g} to {end:g} s")
        length = round(end - offset, 9)
        if duration is not None and abs(duration - length) > _AGREE:
            raise RejectedError("bad_segment", f"a duration of {duration:g} s from {offset:g} to {end:g} s")
        return offset, length

    def channel_of(self, row: Mapping[str, Any]) -> int | None:
        """Return the number of a row's channel, from 0, None where it has none. Raises RejectedError for no channel."""
        value = row.get(self.channel) if self.channel else None
        if is_missing(value):
            return None
        said = checked_name(value, "a channel").lower()
        number = _CHANNELS.get(said, int(said) if said.isascii() and said.isdigit() else None)
        if number is None:
            raise RejectedError("bad_channel", f"{said!r} is no channel: a number from 0, A or B, left or right")
        return number

    def check(self, row: Mapping[str, Any], where: str) -> None:
        """Raise DataError where a column that is not used has a value that looks like a part of a recording."""
        for name in self.suspects:
            if _looks_like_cut(name, row.get(name)):
                said = f"channel={name} (from 0)" if _is_channel(name) else "offset=NAME,end=NAME (or duration=NAME)"
                raise DataError(
                    f"{where}, column {name}",
                    expected="columns of parts of recordings under names that prep knows",
                    got=repr(row[name])[:60],
                    fix=f"Say --columns {said}, or extra={name} if it is no part.",
                )

    @property
    def _used(self) -> set[str | None]:
        fixed = {self.audio, self.text, self.speaker, self.id, self.channel}
        return fixed | {*self.offset, *self.end, *self.duration}

    def numbers(self, row: Mapping[str, Any], but: Collection[str]) -> dict[str, object]:
        """Return the values of other columns than those used and `but` that might be times, by whatever name."""
        taken = self._used | {*but}
        return {name: row[name] for name in sorted(set(row) - taken) if _looks_like_cut(name, row[name])}

    def extra(self, row: Mapping[str, Any], used: Iterable[str] = ()) -> dict[str, Any]:
        """Return what else the row holds, NaN as None; a name that shards use themselves gets "source_" before it.

        A column without a name, as pandas writes an index, is "unnamed".
        """
        from audiorl_cli.data.shards import RESERVED_COLUMNS  # with Arrow, which score does without

        taken = self._used | {*used}
        return {
            f"source_{name}" if name in RESERVED_COLUMNS else checked_name(name, "a column") or "unnamed": (
                None if isinstance(value, float) and math.isnan(value) else value
            )
            for name, value in row.items()
            if name not in taken
        }


@dataclass(frozen=True)
class Columns:
    """What a user says of columns. `given`: pairs of a meaning and a column's name, "" where no column has it."""

    given: tuple[tuple[Meaning, str], ...] = field(default=())

    @classmethod
    def parse(cls, options: Sequence[str]) -> "Columns":
        """Read "text=raw_text,audio=wav,extra=channel". Raises UsageError for another form."""
        known = get_args(Meaning)
        given: list[tuple[Meaning, str]] = []
        for one in ",".join(options).split(","):
            meaning, divided, name = (word.strip() for word in one.partition("="))
            meaning = {"start": "offset"}.get(meaning, meaning)
            twice = meaning != "extra" and meaning in dict(given)
            if meaning not in known or not divided or twice or (meaning == "extra" and not name):
                raise UsageError(
                    "--columns",
                    expected=f"MEANING=COLUMN,... with each of {', '.join(known)} once, extra as often as needed",
                    got=repr(one),
                    fix="Write for example --columns audio=wav,text=raw_text,offset=from,end=to.",
                )
            given.append((cast(Meaning, meaning), name))
        return cls(tuple(given))

    @property
    def names(self) -> frozenset[str]:
        """The columns that are named, which a source must have."""
        return frozenset(name for _, name in self.given if name)

    def options(self) -> list[str]:
        """Return what `parse` reads."""
        return [f"{meaning}={name}" for meaning, name in self.given]

    def fields(self, names: Iterable[str]) -> Fields:
        """Return what the columns `names` mean."""
        return _fields(self, tuple(names))

    def require(self, found: Iterable[str], where: str) -> None:
        """Raise DataError where a source that has the columns `found` lacks one that was named."""
        listed = sorted(map(str, found))
        for name in sorted(self.names.difference(listed)):
            raise DataError(
                where,
                expected=f"the column {name} of --columns",
                got=f"only {', '.join(listed)[:200] or 'none'}",
                fix="Correct --columns.",
            )


AS_NAMED: Final = Columns()


@lru_cache(maxsize=64)
def _fields(columns: Columns, names: tuple[str, ...]) -> Fields:
    given = dict(columns.given)
    said = {name for _, name in columns.given}
    plain: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name != _plain(name)):  # of Text and text, text
        if name not in said:
            plain.setdefault(_plain(name), name)

    def first(meaning: Meaning, known: Sequence[str]) -> str | None:
        if meaning in given:
            return given[meaning] if given[meaning] in names else None
        return next((plain[name] for name in known if name in plain), None)

    def all_of(meaning: Meaning) -> tuple[str, ...]:
        if meaning in given:
            return (given[meaning],) if given[meaning] in names else ()
        return tuple(name for key, name in plain.items() if _PARTS[meaning].fullmatch(key))

    audio, text = first("audio", AUDIO_COLUMNS), first("text", TEXT_COLUMNS)
    speaker, identity = first("speaker", SPEAKER_COLUMNS), first("id", ID_COLUMNS)
    offset, end, duration = all_of("offset"), all_of("end"), all_of("duration")
    if len(offset) == 2 and not end and "end" not in given:  # as annotations of sound events have it: onset to offset
        stops = tuple(name for name in offset if _plain(name).startswith("offset"))
        if len(stops) == 1 and any(_plain(name).startswith("onset") for name in offset):
            offset, end = tuple(name for name in offset if name not in stops), stops
    used = {audio, text, speaker, identity, *offset, *end, *duration, *said}
    dropped = [meaning for meaning, name in columns.given if not name]
    suspects = (
        name
        for name in names
        if name not in used
        and _is_cut(_plain(name))
        and not any(meaning in _PARTS and _PARTS[meaning].fullmatch(_plain(name)) for meaning in dropped)
    )
    return Fields(audio, text, speaker, identity, offset, end, duration, first("channel", ()), tuple(suspects))


def _plain(name: str) -> str:
    """A column's name as the known ones are written: audioFilePath and "Audio file-path" are audio_file_path."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name).strip())
    return re.sub(r"[\s\-_.]+", "_", words).lower()


def _is_cut(plain: str) -> bool:
    words = set(plain.split("_"))
    bare = bool(words & _FROM_TO) and words <= _FROM_TO | _AROUND
    return bare or (bool(words & _CUTS) and not words & _NO_CUTS)


def _is_channel(name: str) -> bool:
    return bool({"channel", "ch"} & {*_plain(name).split("_")})


def _looks_like_cut(name: str, value: object) -> bool:
    """Whether a value is a time, two of them, or a channel."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return 1 <= len(value) <= 4 and all(_looks_like_cut(name, one) for one in value)
    if isinstance(value, bool) or is_missing(value):
        return False
    if isinstance(value, int | float):
        return abs(value) < _SECONDS_MAX
    if not isinstance(value, str):
        return False
    channel = _is_channel(name) and value.strip().lower() in _CHANNELS
    if not channel and not _TIME.fullmatch(value):
        return False
    return not re.fullmatch(r"\s*-?\d{9,}(\.\d+)?\s*", value)


def _agreed(row: Mapping[str, Any], names: Sequence[str], what: str) -> float | None:
    """The seconds that columns of one meaning say. Raises RejectedError where they disagree, or say no seconds."""
    said: dict[str, float] = {}
    for name in names:
        number = seconds(row.get(name), what)
        if number is not None:
            said[name] = number / 1000 if _MILLISECONDS.search(_plain(name)) else number
    if said and max(said.values()) - min(said.values()) > _AGREE:
        raise RejectedError("bad_segment", " and ".join(f"{name} of {number:g} s" for name, number in said.items()))
    return next(iter(said.values()), None)
