"""Host memory that loading a checkpoint takes beyond the model itself, against the size of one of its files.

    python benchmarks/load.py [--layers 16]

Makes a checkpoint (about 0.1 GB a layer), loads it in a process of its own, and prints one JSON object. On a CPU the
model stays in the same memory that is measured: its own bytes are taken off. `limit_bytes`: two files, one that is read
while the last is given back.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

FILE_BYTES = 200_000_000


def make(folder: Path, layers: int) -> None:
    """Write a thinker of `layers` layers of 64 experts, bfloat16, in files of `FILE_BYTES`."""
    import numpy as np

    from audiorl_cli.bridge import checkpoint, weights

    tiny = checkpoint.load("tiny")
    (folder / "shape").mkdir()
    for name, content in tiny.files.items():
        (folder / "shape" / name).write_bytes(content)
    shape: dict[str, Any] = json.loads(json.dumps(tiny.thinker))
    shape["text_config"] |= {"num_hidden_layers": layers, "num_experts": 64, "hidden_size": 512}
    shape["text_config"] |= {"moe_intermediate_size": 512, "num_experts_per_tok": 8}
    shape["audio_config"]["output_dim"] = shape["vision_config"]["out_hidden_size"] = 512
    (folder / "shape" / "config.json").write_text(json.dumps(shape))
    described = checkpoint.abstract(str(folder / "shape"), dtype="bfloat16")
    generator = np.random.default_rng(0)
    with described.model.mesh:
        model = weights.filled(
            described.model, lambda _, shape: generator.standard_normal(shape, np.float32) * np.float32(0.02)
        )
    whole = checkpoint.Checkpoint(**{**vars(described), "model": model})
    checkpoint.save(whole, folder / "model", shard_bytes=FILE_BYTES)


def measure(folder: Path) -> dict[str, float]:
    """Load it; bytes of the process's own memory (files that are mapped do not count) before, after and at the most."""
    from audiorl_cli.bridge import checkpoint

    checkpoint.load("tiny")  # what libraries take at their first use is not the checkpoint's
    seen, done = [_own_bytes()], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(_own_bytes())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    loaded = checkpoint.load(str(folder / "model"), dtype="bfloat16")
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    assert loaded.model is not None
    return {"before_bytes": seen[0], "after_bytes": _own_bytes(), "peak_bytes": max(seen), "load_s": seconds}


def _own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    """Parse, make, measure, print."""
    from audiorl_cli.bridge.quiet import silence

    silence()
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--layers", type=int, default=16)
    arguments.add_argument("--of", type=Path, help="measure this folder, made before")
    given = arguments.parse_args()
    if given.of:
        print(json.dumps(measure(given.of)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, given.layers)
        sizes = [path.stat().st_size for path in (folder / "model").glob("*.safetensors")]
        told = subprocess.run(
            [sys.executable, __file__, "--of", name], check=True, capture_output=True, text=True
        ).stdout.splitlines()[-1]
        found: dict[str, float] = json.loads(told)
    result = {
        "model_bytes": sum(sizes),
        "files": len(sizes),
        "largest_file_bytes": max(sizes),
        "beyond_the_model_bytes": found["peak_bytes"] - found["before_bytes"] - sum(sizes),
        "limit_bytes": 2 * max(sizes),
        "load_s": round(found["load_s"], 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
