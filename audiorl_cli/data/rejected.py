"""Why an utterance is left out, or a file not read: the reasons and rules there are, and nothing else."""

import json
from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal[
    "bad_row",
    "bad_text",
    "no_transcript",
    "duplicate_id",
    "duplicate_recording",
    "outside_folder",
    "not_a_file",
    "missing",
    "unreadable",
    "empty",
    "not_audio",
    "bad_header",
    "corrupt",
    "truncated",
    "non_finite",
    "silent",
    "too_short",
    "too_long",
    "bad_segment",
    "bad_channel",
    "out_of_phase",
    "decoder_failed",
]

REASONS: Final[dict[Reason, str]] = {
    "bad_row": "the row of the source cannot be understood: no object, a wrong type, a line too long, not UTF-8",
    "bad_text": "the transcript holds control characters or half of a surrogate pair",
    "no_transcript": "the source gives no transcript (an empty one is a transcript: nothing is said)",
    "duplicate_id": "an earlier row has this id",
    "duplicate_recording": "another recording of this name, with another suffix, is read with their one transcript",
    "outside_folder": "the path leaves the folder that the source may name files in",
    "not_a_file": "a command, a URL, a folder or a device where a recording was expected",
    "missing": "there is no such file, or no recording for a transcript",
    "unreadable": "the system refuses to read the file",
    "empty": "no bytes, or a header with no samples after it",
    "not_audio": "no decoder knows the content, or it is a video under the name of a recording",
    "bad_header": "the header cannot be true: a rate, a channel count or sizes that contradict one another",
    "corrupt": "the decoder stopped at damaged data, or the content is not what its checksum says",
    "truncated": "it decodes to less than it claims",
    "non_finite": "samples that are not numbers, or too large for the features to be",
    "silent": "every sample is zero, yet the transcript has words",
    "too_short": "shorter than --min-seconds",
    "too_long": "longer than --max-seconds; a transcript cannot be cut",
    "bad_segment": "offset and duration reach outside the recording, or are no numbers",
    "bad_channel": "the recording lacks the channel that was asked for",
    "out_of_phase": "its channels cancel each other out when they are mixed: one is inverted; --channel left takes one",
    "decoder_failed": "the decoder crashed, ran out of memory or took too long",
}

SkipRule = Literal[
    "hidden_folder",
    "hidden_file",
    "linked_twice",
    "unlisted",
    "other_microphone",
    "other_transcript",
    "other_file",
    "unreadable_folder",
]

SKIP_RULES: Final[dict[SkipRule, str]] = {
    "hidden_folder": "recordings and transcripts in hidden folders (.git, .ipynb_checkpoints, __MACOSX)",
    "hidden_file": "recordings and transcripts whose names begin with a dot (._a.wav)",
    "linked_twice": "links to folders that are read under another name, or that hold SOURCE",
    "unlisted": "recordings that no row names",
    "other_microphone": "recordings of utterances that are read from another microphone (_mic2)",
    "other_transcript": "transcripts and tables of kinds that are not read here (.lab, .srt, .csv)",
    "other_file": "files that are neither recordings nor transcripts by their names",
    "unreadable_folder": "folders that the system refuses to read",
}


class RejectedError(Exception):
    """An utterance that cannot be used, by one of `REASONS`; `detail` says what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Rejection:
    """One line of `rejected.jsonl`. `source`: where it was found, as the source itself writes it."""

    id: str
    source: str
    reason: Reason
    detail: str

    def line(self) -> str:
        """The JSON of one line, without the line break; ASCII only, so that no terminal acts on it."""
        return json.dumps({"id": self.id, "source": self.source, "reason": self.reason, "detail": self.detail})


@dataclass(frozen=True)
class Skipped:
    """Files of a source that are not read and are counted by one of `SKIP_RULES`."""

    rule: SkipRule
    files: int = 1
