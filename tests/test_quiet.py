"""What a user's terminal shows of the libraries during a real run: nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tones import tone_shards

RUN = """
import sys
from pathlib import Path
from audiorl_cli.bridge.quiet import silence
silence()
sys.path.insert(0, {tests!r})
from tones import small_config
from audiorl_cli.rl.run import train
train(small_config("train.steps=2"), Path({data!r}), "tiny", Path({out!r}), on_step=lambda metrics: None)
"""


def test_a_run_leaves_the_terminal_to_us(tmp_path: Path) -> None:
    data = tone_shards(tmp_path / "tones")
    code = RUN.format(tests=str(Path(__file__).parent), data=str(data), out=str(tmp_path / "run"))
    # As a new user's: nothing compiled, and nobody who said that there is no TPU.
    told_of_chips = ("JAX_PLATFORMS", "TPU_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told_of_chips)}
    environment["COMPILE_FUNC_DIR"] = str(tmp_path / "compiled")
    for _ in ("compiled", "from the compilation cache"):
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
        assert (tmp_path / "run" / "model" / "config.json").exists()
        shutil.rmtree(tmp_path / "run")
    assert any((tmp_path / "compiled").iterdir())
    assert not (tmp_path / "EasyDeL-Checkpoints").exists()
