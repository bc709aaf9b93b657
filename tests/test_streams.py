"""Joined and streamed files: all that is in them is decoded, and what was cut off is still missed."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.rejected import RejectedError

WHOLE = Extent(max_seconds=30)
RATE = 16_000


def _noise(seconds: float, seed: int, channels: int = 1) -> np.ndarray:
    """Noise that is the same in each channel."""
    samples = 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return np.repeat(samples[:, None], channels, axis=1)


def _file(kind: str, seconds: float, seed: int, channels: int = 1, rate: int = RATE) -> bytes:
    """A recording in one of libsndfile's formats: WAV, OGG/OPUS..."""
    form, _, subtype = kind.partition("/")
    file = io.BytesIO()
    soundfile.write(file, _noise(seconds, seed, channels), rate, format=form, subtype=subtype or None)
    return file.getvalue()


def _muxed(form: str, codec: str, seconds: float, seed: int, rate: int = RATE) -> bytes:
    """A recording as FFmpeg writes it to a file."""
    file = io.BytesIO()
    _mux(file, form, codec, seconds, seed, rate, {})
    return file.getvalue()


def _streamed(form: str, codec: str, options: dict[str, str]) -> bytes:
    """A second and a half as FFmpeg writes it to a pipe."""
    file = io.BytesIO()
    _mux(_Pipe(file), form, codec, 1.5, 1, RATE, options)
    return file.getvalue()


def _mux(target: Any, form: str, codec: str, seconds: float, seed: int, rate: int, options: dict[str, str]) -> None:
    with av.open(target, "w", format=form, options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        samples = (32_768 * _noise(seconds, seed).T).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or None
        )
        for one in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(one))
        container.mux([packet for packet in stream.encode(None) if packet.size])  # FLAC: one without samples


class _Pipe:
    """What can be written to, and not gone back in."""

    def __init__(self, file: io.BytesIO) -> None:
        self.write = file.write


def _rejected(content: bytes, extent: Extent = WHOLE) -> str:
    with pytest.raises(RejectedError) as caught:
        decode(content, "mix", extent)
    return caught.value.reason


LIBSNDFILE = ("OGG/VORBIS", "OGG/OPUS", "FLAC", "MP3", "WAV", "WAV/PCM_24", "AIFF", "AU", "CAF", "W64", "RF64", "NIST")
FFMPEG = (("ogg", "flac"), ("mp4", "aac"), ("asf", "wmav2"), ("ipod", "alac"))


@pytest.mark.parametrize("kind", [*LIBSNDFILE, *FFMPEG])
def test_files_that_were_joined_are_what_each_of_them_is(kind: str | tuple[str, str], tmp_path: Path) -> None:
    def make(seconds: float, seed: int) -> bytes:
        return _file(kind, seconds, seed) if isinstance(kind, str) else _muxed(*kind, seconds, seed)

    parts = [make(1.5, 1), make(1.0, 2), make(0.75, 3)]
    each = np.concatenate([decode(part, "mix", WHOLE).samples for part in parts])
    joined = decode(b"".join(parts), "mix", WHOLE)
    assert np.array_equal(joined.samples, each)
    assert joined.seconds == len(each) / RATE
    # The last of them was cut short, and that is not hidden by those before it.
    assert _rejected(b"".join(parts)[: -len(parts[2]) // 3]) in ("truncated", "corrupt", "not_audio")
    path = tmp_path / "joined"
    path.write_bytes(b"".join(parts))
    part = decode(path, "mix", Extent(1.25, 1.5, 30)).samples
    assert np.array_equal(part, each[20_000:44_000])
    assert _rejected(path.read_bytes(), Extent(1.0, 9.0, 30)) == "bad_segment"
    assert _rejected(path.read_bytes(), Extent(max_seconds=3.0)) == "too_long"


@pytest.mark.parametrize("first", ["WAV", "AIFF", "AU", "NIST"])
def test_files_of_samples_before_others(first: str) -> None:
    parts = [_file(kind, 0.5, seed) for seed, kind in enumerate((first, "WAV/PCM_U8", "AIFF", "NIST", "AU", "FLAC"))]
    each = np.concatenate([decode(part, "mix", WHOLE).samples for part in parts])
    assert np.array_equal(decode(b"".join(parts), "mix", WHOLE).samples, each)
    assert decode(parts[0] + _file("OGG/OPUS", 1.0, 7), "mix", WHOLE).seconds == 1.5


@pytest.mark.parametrize("kind", ["OGG/VORBIS", "OGG/OPUS"])
def test_links_of_a_chain_may_differ_in_channels_codec_and_rate(kind: str) -> None:
    one, two = _file(kind, 1.0, 1), _file(kind, 1.0, 2, channels=2)
    for first, second in ((one, two), (two, one), (one, _file("OGG/VORBIS", 1.0, 2, channels=2))):
        each = np.concatenate([decode(part, "mix", WHOLE).samples for part in (first, second)])
        np.testing.assert_allclose(decode(first + second, "mix", WHOLE).samples, each, rtol=0, atol=1e-6)
    fast = _file("OGG/VORBIS", 1.0, 3, rate=32_000)  # half a second
    assert decode(one + fast + one, "mix", WHOLE).seconds == 2.5
    half = decode(one + fast + one, "mix", WHOLE).samples[16_000:24_000]
    np.testing.assert_allclose(half[200:-200], decode(fast, "mix", WHOLE).samples[200:-200], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("form", "codec"), [("adts", "aac"), ("matroska", "aac"), ("webm", "libopus"), ("ac3", "ac3")])
def test_streams_that_claim_no_length_are_read_to_the_end(form: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else 32_000 if codec == "ac3" else RATE
    parts = [_muxed(form, codec, 1.5, seed, rate) for seed in (1, 2)]
    each = sum(decode(part, "mix", WHOLE).seconds for part in parts)
    assert decode(b"".join(parts), "mix", WHOLE).seconds == pytest.approx(each, abs=0.1)


def test_a_counted_mp3_before_frames_without_a_count() -> None:
    counted, other = _file("MP3", 2.0, 1), _file("MP3", 1.0, 2)
    frames = other[other.index(other[:2], other.index(b"LAME")) :]  # behind the frame that counts the others
    tags = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
    alone = decode(frames, "mix", WHOLE).seconds
    for between in (b"", tags, b"TAG" + bytes(125)):
        assert decode(counted + between + frames, "mix", WHOLE).seconds == pytest.approx(2.0 + alone, abs=1e-3)
        assert decode(frames + between + counted, "mix", WHOLE).seconds == pytest.approx(alone + 2.0, abs=1e-3)
        assert decode(frames + between + frames, "mix", WHOLE).seconds == pytest.approx(2 * alone, abs=1e-3)


STREAMED: list[tuple[str, str, dict[str, str]]] = [
    ("wav", "pcm_s16le", {}),
    ("wav", "pcm_s24le", {"rf64": "always"}),
    ("wav", "pcm_f32le", {}),
    ("aiff", "pcm_s16be", {}),
    ("au", "pcm_mulaw", {}),
    ("w64", "pcm_s16le", {}),
    ("caf", "pcm_s16be", {}),
    ("flac", "flac", {}),
    ("ogg", "flac", {}),
    ("matroska", "flac", {"live": "1"}),
    ("mp4", "flac", {"movflags": "frag_keyframe+empty_moov"}),
    ("mpegts", "aac", {}),
]


@pytest.mark.parametrize(("form", "codec", "options"), STREAMED)
def test_what_was_written_to_a_pipe_is_whole(form: str, codec: str, options: dict[str, str]) -> None:
    content = _streamed(form, codec, options)
    clip = decode(content, "mix", WHOLE)
    assert clip.seconds == pytest.approx(1.5, abs=0.15 if codec == "aac" else 0)
    if codec in ("pcm_s16le", "flac", "pcm_s16be", "pcm_f32le"):
        np.testing.assert_allclose(clip.samples, _noise(1.5, 1)[:, 0], rtol=0, atol=2**-14)
    if form != "mpegts":
        joined = decode(content + content, "mix", WHOLE).samples
        assert np.array_equal(joined, np.concatenate([clip.samples, clip.samples]))
    if codec.startswith(("pcm_s16", "flac")):
        assert _rejected(content[: len(content) * 2 // 3 // 2 * 2 - 1]) in ("truncated", "corrupt")


def _wav(length: int, data: bytes, riff: int | None = None) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", length if riff is None else riff, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", length & 0xFFFFFFFF)
        + data
    )


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFEFFF])
def test_a_wav_whose_size_is_a_placeholder_goes_on_to_its_end(length: int) -> None:
    samples = (32_767 * _noise(2.0, 1)).astype("<i2")
    for riff in (None, 36, 0xFFFFFFFF):
        content = _wav(length, samples.tobytes(), riff)
        np.testing.assert_array_equal(decode(content, "mix", WHOLE).samples, samples[:, 0] / np.float32(32_768))
        assert decode(content + content, "mix", WHOLE).seconds == 4.0
    assert decode(content[:-1000], "mix", WHOLE).seconds < 2.0  # nobody can know
    assert _rejected(content[:-1001]) == "truncated"  # within a sample


def test_a_wav_that_claims_more_than_it_has_is_truncated() -> None:
    samples = (32_767 * _noise(2.0, 1)).astype("<i2").tobytes()
    for length in (len(samples) + 2, 1 << 20, 1 << 30, 0x7F000000 - (1 << 20), 0xC0000000):
        assert _rejected(_wav(length, samples)) == "truncated"
    # An empty chunk of data, and others behind it, is no sound.
    assert _rejected(_wav(0, b"LIST" + struct.pack("<I", 400) + bytes(400))) == "empty"
    assert decode(_wav(len(samples), samples) + b"LIST\x04\0\0\0INFO", "mix", WHOLE).seconds == 2.0


def _unmarked(ogg: bytes) -> bytes:
    """The Ogg without the mark that its last page ends the stream, and with another checksum (RFC 3533)."""
    at = ogg.rindex(b"OggS")
    page = bytearray(ogg[at:])
    assert page[5] & 4
    page[5] &= ~4
    page[22:26] = bytes(4)
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ 0x04C11DB7 if register & 0x80000000 else register << 1) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", register)
    return ogg[:at] + bytes(page)


@pytest.mark.parametrize("kind", ["OGG/VORBIS", "OGG/OPUS"])
def test_an_ogg_without_the_mark_of_its_end_is_whole_if_its_last_page_is(kind: str) -> None:
    marked = _file(kind, 6.5, 1)
    content = _unmarked(marked)
    clip = decode(content, "mix", WHOLE)
    # The mark also says how many samples of the last packet count.
    assert clip.seconds == pytest.approx(6.5, abs=0.07)
    assert np.corrcoef(clip.samples[:100_000], decode(marked, "mix", WHOLE).samples[:100_000])[0, 1] > 0.98
    for cut in (1, 30, 100):
        assert _rejected(content[:-cut]) == "truncated"
    assert _rejected(content + content[:2]) == "truncated"
    assert decode(content + content, "mix", WHOLE).seconds == 2 * clip.seconds
    assert decode(content + b"TAG" + bytes(125), "mix", WHOLE).seconds == clip.seconds
