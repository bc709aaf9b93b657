"""Shards and sources on an object store, over its real protocol: the bytes of a folder, whatever fails on the way."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from objects import BUCKET, Objects, files_in, objects_below, serving, upload
from tones import tone_shards

from audiorl_cli.data import shard_file
from audiorl_cli.data import store as stores
from audiorl_cli.data.decode import Extent, decode
from audiorl_cli.data.prep import PrepSettings, prep
from audiorl_cli.data.rejected import RejectedError
from audiorl_cli.data.shards import Row, open_shards
from audiorl_cli.data.sources import Utterance, confined, open_source, unique
from audiorl_cli.data.store import Place, Url, demand_apart, place
from audiorl_cli.data.survey import survey
from audiorl_cli.data.verify import verify
from audiorl_cli.errors import ConfigError, DataError, UsageError

SETTINGS = PrepSettings(clip_seconds=1.0, rows_per_shard=2, workers=1)
WORDS = ("--clip-seconds", "1", "--rows-per-shard", "2", "--workers", "1")


@pytest.fixture(scope="module")
def store() -> Iterator[Objects]:
    with serving() as objects:
        yield objects


@pytest.fixture(autouse=True)
def fresh(store: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIORL_CACHE", str(tmp_path / "cache"))
    store.log.clear()
    store.failing = lambda method, path: None
    shard_file._fetched.cache_clear()
    shard_file._footer.cache_clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, eleven recordings and an empty one, and `data`, what prep makes of it: six shards."""
    folder = tmp_path_factory.mktemp("whole")
    tone_shards(folder, rows=11)
    (folder / "source/empty.wav").touch()
    (folder / "source/empty.txt").write_text("rejected")
    prep(str(folder / "source"), folder / "data", SETTINGS)
    return folder


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Url:
    return Url(f"s3://{BUCKET}/{re.sub(r'[^a-z]+', '-', request.node.name).strip('-')}")


def _audiorl(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "audiorl_cli", *map(str, words)], capture_output=True, text=True)


def test_real_recordings_are_read_from_the_store_one_by_one(
    speech: Path, url: Url, tmp_path: Path, store: Objects
) -> None:
    source = tmp_path / "source"
    for path in sorted((speech / "librispeech").rglob("*.trans.txt"))[:2]:
        shutil.copytree(path.parent, source / path.parent.relative_to(speech / "librispeech"))
    upload(source, url)
    settings = PrepSettings(rows_per_shard=8, workers=1)
    summary = prep(str(source), tmp_path / "data", settings)
    assert prep(url, tmp_path / "streamed", settings).utterances == summary.utterances > 5
    assert files_in(tmp_path / "streamed") == files_in(tmp_path / "data")
    recordings = [path.name for path in source.rglob("*.flac")]
    assert [store.sent(f"/{name}$", "GET") for name in recordings] == [1] * len(recordings)
    assert not (tmp_path / "cache").exists()


TREES = {
    "libritts": {"1/2/1_2_3.wav": "", "1/2/1_2_3.normalized.txt": "one", "1/2/1_2_4.normalized.txt": "gone"},
    "mls": {"transcripts.txt": "1_2_3\tone\n1_2_4\tgone\n", "audio/1/2/1_2_3.wav": ""},
    "vctk": {"wav48/p1/p1_001.wav": "", "txt/p1/p1_001.txt": "one", "txt/p1/p1_002.txt": "gone"},
    "ljspeech": {"metadata.csv": "LJ1|1|one\nLJ2|2|gone\n", "wavs/LJ1.wav": "", "wavs/LJ3.wav": ""},
}


@pytest.mark.parametrize("kind", TREES)
def test_the_tree_of_a_corpus_in_the_store_is_the_same_source(url: Url, tmp_path: Path, kind: str) -> None:
    for name, text in TREES[kind].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    upload(tmp_path, url)
    here, there = open_source(str(tmp_path)), open_source(url)
    assert here.kind == there.kind == kind
    assert survey(there).digest == survey(here).digest
    assert survey(there).skipped == survey(here).skipped
    assert [item.id for item in unique(there.items()) if isinstance(item, Utterance)] != []


def test_what_is_read_from_disks_alone_is_refused_by_name(url: Url, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/00.tar").write_bytes(b"")
    (tmp_path / "cuts.jsonl").write_text('{"id": "a", "type": "MonoCut", "recording": {}, "supervisions": []}\n')
    upload(tmp_path, url)
    for there, got in (
        (url / "tars", "tars"),
        (url / "tars/00.tar", "tars"),
        (url / "cuts.jsonl", "a manifest of lhotse"),
    ):
        with pytest.raises(
            DataError, match=rf"expected a source that is read from an object store.*, got {got}\. Copy"
        ):
            open_source(there)
    with pytest.raises(DataError, match=r"got one of format kaldi\. Copy it to a disk"):
        open_source(url, "kaldi")


@pytest.mark.parametrize("kind", ["jsonl", "table"])
def test_a_manifest_in_the_store_is_the_same_source(speech: Path, url: Url, tmp_path: Path, kind: str) -> None:
    rows = [json.loads(line) for line in (speech / "digits/manifest.jsonl").read_text().splitlines()[:9]]
    for row in rows:
        shutil.copy(speech / "digits" / row["audio"], tmp_path)
    rows.append({"audio": "nonsuch.wav", "text": "x"})
    told = [{"audio": Path(row["audio"]).name, "text": row["text"]} for row in rows]
    if kind == "jsonl":
        (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in told))
    else:
        (tmp_path / "all.tsv").write_text("audio\ttext\n" + "".join("{audio}\t{text}\n".format(**row) for row in told))
    upload(tmp_path, url)
    word, there = (str(tmp_path), url) if kind == "jsonl" else (str(tmp_path / "all.tsv"), url / "all.tsv")
    assert survey(open_source(there)).digest == survey(open_source(word)).digest


def test_a_manifest_may_name_urls_and_root_confines_them(whole: Path, url: Url, tmp_path: Path) -> None:
    upload(whole / "source", url)
    names = [f"{url}/tone{row}.wav" for row in range(3)]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps({"audio": name, "text": "a b"}) + "\n" for name in names))
    for item in open_source(str(path)).items():
        assert isinstance(item, Utterance)
        found = decode(item.audio, "mix", Extent())
        assert np.array_equal(found.samples, decode(whole / f"source/{item.id}.wav", "mix", Extent()).samples)
    with pytest.raises(RejectedError, match="no such file"):
        decode(url / "nonsuch.wav", "mix", Extent())
    for name, root in ((f"{url}/a.wav", Url(f"{url}/b")), (f"{url}/a.wav", tmp_path), (f"{url}b/a.wav", url)):
        with pytest.raises(RejectedError, match="outside"):
            confined(name, url, root)
    assert confined("b/./a.wav", url, url) == url / "b/a.wav"
    for name, reason in (("../a.wav", "outside_folder"), ("http://host/a.wav", "not_a_file")):
        with pytest.raises(RejectedError) as refused:
            confined(name, url, None)
        assert refused.value.reason == reason


def test_a_killed_run_goes_on_where_it_was(whole: Path, url: Url, store: Objects) -> None:
    words = ["prep", whole / "source", "--out", url, *WORDS]
    running: list[subprocess.Popen[str]] = []

    def kill(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/data-00003.parquet"):
            running[0].send_signal(signal.SIGKILL)

    store.failing = kill
    running.append(subprocess.Popen([sys.executable, "-m", "audiorl_cli", *map(str, words)], text=True))
    assert running[0].wait() == -signal.SIGKILL
    left = objects_below(url)
    assert "manifest.json" not in left
    assert left[".progress/000000002.json"]
    store.failing = lambda method, path: None
    store.log.clear()
    with pytest.raises(DataError, match=r"dtype of the data in s3://.*: expected 'float16', got 'float32'"):
        prep(str(whole / "source"), url, PrepSettings("float32", 1.0, rows_per_shard=2, workers=1))
    summary = prep(str(whole / "source"), url, SETTINGS)
    assert summary.resumed >= 6
    assert [store.sent(f"data-0000{number}.parquet") for number in range(6)] == [0, 0, 0, 1, 1, 1]
    assert objects_below(url) == files_in(whole / "data")
    store.log.clear()
    assert prep(str(whole / "source"), url, SETTINGS).resumed == 12
    assert store.sent("") == 0


def test_requests_that_fail_are_sent_again(whole: Path, url: Url, store: Objects) -> None:
    upload(whole / "source", url / "source")
    to_fail = ["GET tone3.txt", "GET tone7.wav", "PUT data-00002.parquet", "PUT 000000004.json", "PUT manifest.json"]
    failed: list[str] = []

    def once_each(method: str, path: str) -> str | None:
        request = f"{method} {path.rpartition('/')[2]}"
        if request not in to_fail or request in failed:
            return None
        failed.append(request)
        return "503 Slow Down" if len(failed) % 2 else "500 Internal Server Error"

    store.failing = once_each
    prep(url / "source", url / "data", SETTINGS)
    assert sorted(failed) == sorted(to_fail)
    assert objects_below(url / "data") == files_in(whole / "data")
    to_fail.append("GET data-00001.parquet")
    assert verify(url / "data").utterances == 11
    assert failed[-1] == to_fail[-1]


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        (r"PUT .*/data-00001.parquet", r"error {url}/data-00001.parquet: expected to write it, got .*503"),
        (r"PUT .*/begun.json", r"error {url}: expected to write it, got .*503"),
        (r"GET .*/tone4.wav", r"error {url}/source/tone4.wav: expected a store that answers, got .*503"),
        (r"GET /speech", r"error {url}/source: expected a source to read, got .*503"),
    ],
    ids=["a shard", "the journal", "a recording", "a listing"],
)
def test_a_store_that_does_not_answer_is_one_line_and_rejects_nothing(
    whole: Path, url: Url, store: Objects, monkeypatch: pytest.MonkeyPatch, failing: str, said: str
) -> None:
    upload(whole / "source", url / "source")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store.failing = lambda method, path: "503 Slow Down" if re.fullmatch(failing, f"{method} {path}") else None
    done = _audiorl("prep", url / "source", "--out", url, *WORDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(said.format(url=url) + r".*\n", done.stderr), done.stderr
    store.failing = lambda method, path: None
    assert "rejected.jsonl" not in url.files()


def test_rows_come_through_a_cache_that_keeps_its_bound(
    whole: Path, url: Url, store: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(whole / "data", url)
    local, remote = open_shards(whole / "data"), open_shards(url)
    assert remote.digest == local.digest
    prep(str(whole / "source"), tmp_path / "other", replace(SETTINGS, dtype="float32"))
    other = open_shards(tmp_path / "other")
    cache, most = tmp_path / "cache", 1.3 * sum(record.bytes for record in other.records)
    monkeypatch.setenv("AUDIORL_CACHE_GB", str(most / 1e9))
    assert remote.texts() == local.texts()
    for number in [*range(11), *reversed(range(11))]:
        assert same(remote.read([number]), local.read([number]))
    kept = sorted(cache.glob("[!.]*"))
    assert len(kept) == 6
    shard_file._fetched.cache_clear()
    store.log.clear()
    assert open_shards(url).texts() == local.texts()
    assert store.sent("parquet", "GET") == 0
    kept[0].write_bytes(b"damaged")
    shard_file._fetched.cache_clear()
    assert open_shards(url).texts() == local.texts()
    assert store.sent("parquet", "GET") == 1
    # Other shards make room for themselves.
    upload(tmp_path / "other", url / "other")
    assert open_shards(url / "other").texts() == other.texts()
    left = sorted(cache.glob("[!.]*"))
    assert 0 < len(set(left) & set(kept)) < 6
    assert sum(path.stat().st_size for path in left) <= most
    monkeypatch.setenv("AUDIORL_CACHE_GB", "many")
    with pytest.raises(ConfigError, match="a number of GB, got 'many'"):
        open_shards(url).read([0])


def test_shards_that_the_cache_has_no_room_for_are_read_in_place(
    whole: Path, url: Url, store: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(whole / "data", url)
    local, remote = open_shards(whole / "data"), open_shards(url)
    monkeypatch.setenv("AUDIORL_CACHE_GB", str(0.9 * sum(record.bytes for record in local.records) / 1e9))
    assert remote.columns == local.columns
    store.log.clear()
    assert remote.texts() == local.texts()
    asked = len(store.log)
    assert (remote.column("id"), remote.column("num_frames")) == (local.column("id"), local.column("num_frames"))
    assert len(store.log) == asked  # all that is known of rows comes together
    assert same(remote.read([7, 0, 10, 7]), local.read([7, 0, 10, 7]))
    assert [row.id for rows in remote.groups(remote.records[0]) for row in rows] == ["tone0", "tone1"]
    assert not list((tmp_path / "cache").glob("[!.]*"))
    assert verify(url).utterances == 11
    shard = url / remote.records[0].file
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # within a window
    shard.write_bytes(bytes(content))
    said = rf"^{shard}: expected a shard that can be read, .* got .*(CRC|checksum).* prep --verify {url} "
    with pytest.raises(DataError, match=said):
        remote.read([0, 1])
    store.failing = lambda method, path: "403 Forbidden" if "00001" in path else None
    with pytest.raises(DataError, match=rf"^{url}/data-00001.parquet: expected a shard that can be read"):
        remote.read([2])


def same(some: list[Row], others: list[Row]) -> bool:
    """Whether they are alike to the bit."""
    pairs = zip(some, others, strict=True)
    return all((a.id, a.text, a.features.tobytes()) == (b.id, b.text, b.features.tobytes()) for a, b in pairs)


def test_what_is_damaged_or_missing_in_the_store_is_named(whole: Path, url: Url) -> None:
    upload(whole / "data", url)
    shard = url / "data-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-5] + b"?PAR1")
    opened = open_shards(url)
    assert opened.read([1])[0].id == "tone1"
    for use in (lambda: opened.read([2]), lambda: verify(url)):
        with pytest.raises(DataError, match=rf"^{shard}: expected a sha256 beginning"):
            use()
    shard.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=rf"^{shard}: expected \d+ bytes, got 4"):
        open_shards(url)
    with pytest.raises(DataError, match=r"none/manifest.json: expected the manifest of a shard folder, got no such"):
        open_shards(url / "none")
    with pytest.raises(DataError, match=r"s3://nobucket/a: expected to write it, got .*NO_SUCH_BUCKET"):
        prep(str(whole / "source"), Url("s3://nobucket/a"), SETTINGS)
    (url / "other/data-00000.parquet").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"expected no shards without a manifest, got data-00000.parquet"):
        prep(str(whole / "source"), url / "other", SETTINGS)
    with pytest.raises(DataError, match=r"expected a JSONL manifest.* got nothing there"):
        open_source(url / "none")


def test_the_commands_take_urls(whole: Path, url: Url) -> None:
    upload(whole / "data", url)
    done = _audiorl("prep", "--verify", f"{url}/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"whole: {url}, every byte and row: 11 rows")
    done = _audiorl("prep", whole / "source", "--out", "ftp://host/x")
    assert done.returncode == 2
    assert done.stderr.startswith("error ftp://host/x: expected a path, or a URL with s3:// or gs://, got another.")


def test_what_has_been_written_anew_meanwhile_is_seen(whole: Path, url: Url) -> None:
    upload(whole / "source", url)
    first = survey(open_source(url))
    (url / "tone0.wav").write_bytes((url / "tone0.wav").read_bytes() + b"x")
    stores._listed_once.cache_clear()  # as in another process
    assert survey(open_source(url)).digest != first.digest


def test_places() -> None:
    assert place("a/b") == Path("a/b")
    assert place("s3://bucket/a/") == Url("s3://bucket/a") == Url("s3://bucket") / "a"
    assert (Url("s3://b/x.tar.gz").suffix, Url("s3://b/x.wav").stem, Url("s3://b/x/y").parent) == (
        ".gz",
        "x",
        "s3://b/x",
    )
    with pytest.raises(UsageError, match=r"expected a path, or a URL with s3:// or gs://"):
        place("http://host/a")


def test_what_is_written_is_kept_apart_from_what_is_read(tmp_path: Path) -> None:
    source, link = tmp_path / "source", tmp_path / "link"
    source.mkdir()
    link.symlink_to(source)
    (source / "manifest.json").touch()
    refused: list[tuple[Place, str, str]] = [
        (source, str(source), "the place of SOURCE"),
        (link, str(source), "the place of SOURCE"),
        (source / ".." / "source", str(link), "the place of SOURCE"),
        (source / "shards", str(source), "a folder within SOURCE"),
        (link / "shards", str(source), "a folder within SOURCE"),
        (source, str(source / "manifest.json"), "the folder of SOURCE"),
        (source / "manifest.json", str(source / "manifest.json"), "the place of SOURCE"),
        (Url("s3://b/data"), "s3://b/data/", "the place of SOURCE"),
        (Url("s3://b/data/shards"), "s3://b/data", "the place of SOURCE"),
    ]
    for out, given, got in refused:
        with pytest.raises(UsageError, match=f"--out {out}: expected a folder of its own, got {got}"):
            demand_apart(out, {"SOURCE": given}, outside=True)
    apart: list[tuple[Place, str | None]] = [
        (tmp_path / "source2", str(source)),
        (tmp_path, str(source)),
        (tmp_path / "new", "hf:source"),
        (tmp_path / "new", "org/model"),
        (tmp_path / "new", None),
        (Url("s3://b/data2"), "s3://b/data"),
        (Url("s3://b/data"), str(source)),
    ]
    for out, other in apart:
        demand_apart(out, {"SOURCE": other}, outside=True)
    demand_apart(source / "report", {"MODEL": str(source)})
