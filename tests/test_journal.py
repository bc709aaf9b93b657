"""A run of prep that is killed or cannot write is taken up again, to the same bytes; a folder has one run at a time."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tones import tone_shards

from audiorl_cli.data.prep import PrepSettings, prep

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Runs prep in children of one process that has imported it, and kills each at one of the moments in which it touches
# its folder: before a file is opened, renamed or removed, or `delay` seconds later, when workers have gone on.
_CHAOS = """
import json, os, sys, time
from pathlib import Path
from audiorl_cli.data.prep import PrepSettings, prep

for line in sys.stdin:
    source, out, moment, delay, killer = json.loads(line)
    if (child := os.fork()) == 0:
        seen = 0
        def watch(event, arguments):
            global seen
            if event in ("open", "os.rename", "os.remove") and out in str(arguments[0]):
                seen += 1
                if seen == moment:
                    time.sleep(delay)
                    os.kill(os.getpid(), killer)
        code = 1
        try:
            sys.addaudithook(watch)
            prep(source, Path(out), PrepSettings(clip_seconds=1.0, rows_per_shard=2, workers=1))
            code = 0
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = tone_shards(tmp_path, rows=11)
    source, chance = whole.parent / "source", random.Random(0)
    (source / "empty.wav").touch()
    (source / "empty.txt").write_text("rejected")
    settings = PrepSettings(clip_seconds=1.0, rows_per_shard=2, workers=1)
    prep(str(source), tmp_path / "whole", settings)
    expected, out = _files(tmp_path / "whole"), tmp_path / "data"
    with subprocess.Popen(
        [sys.executable, "-c", _CHAOS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as runs:
        assert runs.stdin is not None
        assert runs.stdout is not None
        kills = 0
        while kills < 20:
            killer = chance.choice([signal.SIGKILL, signal.SIGTERM])
            order = [str(source), str(out), chance.randint(1, 25), chance.choice([0, 0.01, 0.1]), killer]
            print(json.dumps(order), file=runs.stdin, flush=True)
            code = int(runs.stdout.readline())
            assert code in (0, -killer)
            kills += code != 0
            found = {name: content for name, content in _files(out).items() if not name.startswith(".")}
            assert found.items() <= expected.items()
            if code == 0:
                assert found == expected
                shutil.rmtree(out)
        runs.stdin.close()
    prep(str(source), out, settings)
    assert _files(out) == expected


_LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
from audiorl_cli.cli import main
main()
"""


def test_a_full_disk_is_one_line_and_no_obstacle_later(tmp_path: Path) -> None:
    source, out = tone_shards(tmp_path, rows=11).parent / "source", tmp_path / "data"
    words = ["prep", str(source), "--out", str(out), "--clip-seconds", "1", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, *words], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"error {out}/data-00000.parquet: expected to write it, got File too large. "
        "Free disk space or choose another --out."
    ]
    assert [path.name for path in out.glob("*.parquet")] == []
    prep(str(source), out, PrepSettings(clip_seconds=1.0))
    assert _files(out) == _files(tmp_path / "shards")
