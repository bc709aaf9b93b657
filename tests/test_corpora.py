"""The trees of known corpora: each recording with its own transcript, and every file accounted for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.rejected import Rejection, SkipRule
from audiorl_cli.data.sources import Utterance, open_source, unique
from audiorl_cli.errors import DataError

Reasons = dict[str, str]


def _write(folder: Path, *recordings: str, **texts: str) -> None:
    for name in recordings:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.1 * np.sin(np.arange(4_000) * (1 + len(name)) / 50), 16_000)


def _texts(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _read(source: Path, kind: str, split: str | None = None) -> tuple[list[Utterance], Reasons, dict[SkipRule, int]]:
    opened = open_source(str(source), "auto", split)
    assert opened.kind == kind
    skipped: Counter[SkipRule] = Counter()
    items = list(unique(opened.items(), skipped))
    assert list(unique(opened.items())) == items
    kept = [item for item in items if isinstance(item, Utterance)]
    assert all(isinstance(item.audio, Path) and item.audio.is_file() for item in kept)
    return kept, {item.source: item.reason for item in items if isinstance(item, Rejection)}, dict(skipped)


def test_libritts(tmp_path: Path) -> None:
    chapter = tmp_path / "train-clean-100/103/1240"
    names = [f"103_1240_000000_00000{number}" for number in range(5)]
    _write(chapter, *(f"{name}.wav" for name in names[:4]), f"{names[0]}.flac")
    texts = {f"{name}.normalized.txt": f"Doctor {name[-1]}.\n" for name in (names[0], names[1], names[4])}
    texts |= {f"{name}.original.txt": f"Dr. {name[-1]}." for name in (names[0], names[3])}
    texts["103_1240.trans.tsv"] = f"{names[2]}\tDr. 2.\tDoctor two.\n{names[1]}\tx\ty\nbroken line\n"
    texts["103_1240.book.tsv"] = "x"
    _texts(chapter, texts)
    _texts(tmp_path, {"speakers.tsv": "READER\tGENDER\n", "README.txt": "about"})
    kept, reasons, skipped = _read(tmp_path, "libritts")
    assert [(one.id, one.text, one.extra["text_original"], one.speaker) for one in kept] == [
        (names[0], "Doctor 0.", "Dr. 0.", "103"),
        (names[1], "Doctor 1.", None, "103"),
        (names[2], "Doctor two.", "Dr. 2.", "103"),
    ]
    base = "train-clean-100/103/1240"
    assert reasons == {
        "103_1240.trans.tsv line 3": "bad_row",
        f"{base}/{names[0]}.flac": "duplicate_recording",
        f"{base}/{names[3]}.wav": "no_transcript",
        f"{base}/{names[4]}.normalized.txt": "missing",
    }
    assert skipped == {"other_transcript": 2, "other_file": 1}


@pytest.mark.parametrize("top", ["", "train"])  # one part, or all of them
def test_mls(tmp_path: Path, top: str) -> None:
    for part in ("train", "dev"):
        folder = tmp_path / part
        _write(folder, "audio/10/20/10_20_000001.flac", f"audio/10/20/10_20_{part}.flac")
        lines = "10_20_000001\tcaf\u00e9 au lait\n10_20_000009\tgone\nno tab\n" if part == "train" else "11_20_1\tx\n"
        _texts(folder, {"transcripts.txt": lines, "segments.txt": "10_20_000001\thttp://x\t1.0\t9.0\n"})
    _write(tmp_path / "dev", "audio/11/20/11_20_1.ogg")
    _texts(tmp_path / "train", {"limited_supervision/1hr/handles.txt": "10_20_000001\n"})
    kept, reasons, skipped = _read(tmp_path / top, "mls")
    prefix = "" if top else "train/"
    found = [(one.id, one.text, one.speaker, one.offset, one.audio_name) for one in kept]
    assert ("10_20_000001", "café au lait", "10", None, f"{prefix}audio/10/20/10_20_000001.flac") in found
    assert ("11_20_1" in [one.id for one in kept]) == (not top)
    assert (
        reasons.items()
        >= {
            f"{prefix}transcripts.txt line 2": "missing",
            f"{prefix}transcripts.txt line 3": "bad_row",
            f"{prefix}audio/10/20/10_20_train.flac": "no_transcript",
        }.items()
    )
    assert skipped == {"other_transcript": 2 if top else 3}


def test_vctk(tmp_path: Path) -> None:
    source = tmp_path / "vctk"
    audio = "wav48_silence_trimmed"
    _write(source, *(f"{audio}/p225/p225_00{number}_mic{mic}.flac" for number in (1, 2) for mic in (1, 2)))
    _write(source, f"{audio}/p280/p280_001_mic2.flac", f"{audio}/p315/p315_001_mic1.flac")
    texts = {
        f"txt/{name[:4]}/{name}.txt": f"{name} said\n" for name in ("p225_001", "p225_002", "p280_001", "p225_009")
    }
    info = "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\n"
    _texts(source, texts | {"speaker-info.txt": info, f"{audio}/p225/log.txt": "x"})
    kept, reasons, skipped = _read(source, "vctk")
    assert [(one.id, one.text, one.speaker, one.extra) for one in kept] == [
        ("p225_001", "p225_001 said", "p225", {"microphone": "mic1", "age": "23", "gender": "F", "accent": "English"}),
        ("p225_002", "p225_002 said", "p225", {"microphone": "mic1", "age": "23", "gender": "F", "accent": "English"}),
        ("p280_001", "p280_001 said", "p280", {"microphone": "mic2"}),
    ]
    assert reasons == {
        "txt/p225/p225_009.txt": "missing",
        f"{audio}/p315/p315_001_mic1.flac": "no_transcript",
    }
    assert skipped == {"other_microphone": 2, "other_transcript": 1}
    summary = prep(str(source), tmp_path / "out", PrepSettings(clip_seconds=1.0, workers=1))
    assert (summary.utterances, dict(summary.skipped)) == (3, skipped)


def test_vctk_of_one_microphone(tmp_path: Path) -> None:
    _write(tmp_path, "wav48/p225/p225_001.wav")
    _texts(tmp_path, {"txt/p225/p225_001.txt": "one", "speaker-info.txt": "225  23  F  English\n"})
    ((one,), reasons, skipped) = _read(tmp_path, "vctk")
    assert (one.id, one.extra["gender"], one.extra["microphone"], reasons, skipped) == ("p225_001", "F", "", {}, {})


def test_ljspeech(tmp_path: Path) -> None:
    _write(tmp_path, *(f"wavs/LJ001-000{number}.wav" for number in range(1, 5)), "wavs/LJ001-0001.flac")
    lines = [
        'LJ001-0001|He said "16|He said "sixteen',
        "LJ001-0002|Dr. Who|",
        "LJ001-0003.wav|two columns",
        "LJ001-0009|gone|gone",
        "LJ001-0004",
    ]
    _texts(tmp_path, {"metadata.csv": "\n".join(lines), "README": "about"})
    for source in (tmp_path, tmp_path / "metadata.csv"):
        kept, reasons, skipped = _read(source, "ljspeech")
        assert [(one.id, one.text, one.extra) for one in kept] == [
            ("LJ001-0001", 'He said "sixteen', {"text_original": 'He said "16'}),
            ("LJ001-0002", "Dr. Who", {"text_original": "Dr. Who"}),
            ("LJ001-0003", "two columns", {}),
        ]
        assert reasons == {
            "wavs/LJ001-0001.flac": "duplicate_recording",
            "metadata.csv line 4": "missing",
            "metadata.csv line 5": "bad_row",
        }
        assert skipped == {"unlisted": 1}


def test_a_table_with_a_header_is_no_ljspeech(tmp_path: Path) -> None:
    _write(tmp_path, "a.wav")
    _texts(tmp_path, {"metadata.csv": "file_name,transcription\na.wav,one|two\n"})
    assert [one.text for one in _read(tmp_path, "table")[0]] == ["one|two"]


def test_common_voice(tmp_path: Path) -> None:
    _write(tmp_path, "clips/a.flac", "clips/b.flac", "clips/c.flac")
    table = "client_id\tpath\tsentence\nx\t{0}.flac\tsaid {0}\n"
    _texts(
        tmp_path, {"train.tsv": table.format("a"), "test.tsv": table.format("b"), "validated.tsv": table.format("c")}
    )
    with pytest.raises(DataError, match=r"several tables \(test\.tsv, train\.tsv, validated\.tsv\).*--split"):
        open_source(str(tmp_path))
    kept, _, skipped = _read(tmp_path, "table", split="train")
    assert [(one.text, one.audio) for one in kept] == [("said a", tmp_path / "clips/a.flac")]
    assert skipped == {"unlisted": 2, "other_transcript": 2}
