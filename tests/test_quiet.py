"""What a user's terminal shows of the libraries during a real run: nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tones import small_config, tone_shards

from audiorl_cli import config as configs


def test_a_run_leaves_the_terminal_to_us(tmp_path: Path) -> None:
    data, config, out = tone_shards(tmp_path / "tones"), tmp_path / "config.toml", tmp_path / "run"
    config.write_text(configs.dump(small_config("train.steps=2")))
    words = ("train", "--config", config, "--data", data, "--model", "tiny", "--out", out)
    command = [sys.executable, "-m", "audiorl_cli", *map(str, words)]
    # As a new user's: nothing compiled, and nobody who said that there is no TPU.
    told_of_chips = ("JAX_PLATFORMS", "TPU_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told_of_chips)}
    environment["COMPILE_FUNC_DIR"] = str(tmp_path / "compiled")
    for _ in ("compiled", "from the compilation cache"):
        told = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert (told.returncode, told.stdout) == (0, f"{out}: 2 steps; the model is in {out}/model\n")
        assert [line.split()[0] for line in told.stderr.splitlines()] == ["step", "1", "2"]
        assert (out / "model" / "config.json").exists()
        shutil.rmtree(out)
    assert any((tmp_path / "compiled").iterdir())
    assert not (tmp_path / "EasyDeL-Checkpoints").exists()
