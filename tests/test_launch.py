"""What starts audiorl elsewhere says what is so: the image is made by the README's command, the files of launchers name
files, options and slices that there are.
"""

import dataclasses
import math
import re
import shlex
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

from audiorl_cli import config as configs
from audiorl_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "tpu-qwen3-omni"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, each with the rest of its line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Each target of the Dockerfile with its instructions, those of what it is made from in front."""
    made: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            parent, _, name = rest.split()
            made[name] = list(made.get(parent, []))
        else:
            made[name].append((word, rest))
    return made


@pytest.mark.parametrize("target", ["cpu", "cuda", "tpu"])
def test_an_image_is_set_up_as_the_readme_says(target: str) -> None:
    steps, extra = stages()[target], target != "cpu"
    made = [rest for word, rest in steps if word == "RUN" and rest.startswith("make ")]
    assert made == ["make env"] + [f"make env EXTRA={target}"] * extra
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{command}`" in readme for command in made)
    assert [rest for word, rest in steps if word == "USER"][-1] != "root"
    assert [rest for word, rest in steps if word == "ENTRYPOINT"] == ['["audiorl"]']
    copied = {source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    needed = {"constraints.txt", "pyproject.toml", "Makefile", "README.md", "LICENSE", "audiorl_cli"}
    assert needed | ({f"constraints-{target}.txt"} if extra else set()) <= copied


def pinned(name: str) -> dict[str, str]:
    """Package -> version of a file of constraints, after seeing that each has a hash."""
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.IGNORECASE)
    assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))
    found = (re.match(r"([\w.-]+)==(\S+)", block) for block in blocks)
    return {match[1].lower(): match[2] for match in found if match}


@pytest.mark.parametrize("extra", ["cuda", "tpu"])
def test_an_extra_is_pinned_beside_what_jax_is(extra: str) -> None:
    base, more = pinned("constraints.txt"), pinned(f"constraints-{extra}.txt")
    assert not base.keys() & more.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (jax,) = map(Requirement, project["optional-dependencies"][extra])
    assert jax.name == "jax"
    assert jax.specifier.contains(base["jax"])
    for need in map(Requirement, requires("jax") or []):
        if need.marker and any(need.marker.evaluate({"extra": name}) for name in jax.extras):
            version = (base | more)[need.name.lower()]
            assert need.specifier.contains(version), f"{need} is pinned to {version}"


def chips_of(kind: str) -> int:
    """How many chips an accelerator type has. Of v4 and v5p the number in it counts cores, of which a chip has two."""
    name, _, number = kind.partition("-")
    return int(number) // (2 if name in ("v4", "v5p") else 1)


def launched(name: str) -> tuple[list[str], int]:
    """The words of `audiorl train` in a launcher's file, and the chips it has asked for."""
    file: Any = yaml.safe_load((EXAMPLE / name).read_text(encoding="utf-8"))
    if name.startswith("sky"):
        (command,) = (line for line in file["run"].replace("\\\n", "").splitlines() if line)
        return shlex.split(command)[1:], chips_of(file["resources"]["accelerators"].removeprefix("tpu-"))
    (pod,) = (job["template"]["spec"]["template"]["spec"] for job in file["spec"]["replicatedJobs"])
    (container,) = pod["containers"]
    (spec,) = (job["template"]["spec"] for job in file["spec"]["replicatedJobs"])
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    # A process a host, all at once: one that comes later is waited for.
    assert spec["completions"] == spec["parallelism"]
    assert chips == spec["completions"] * container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    return container["args"], chips


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLE.glob("*.yaml")))
def test_a_launcher_starts_what_there_is(name: str) -> None:
    words, chips = launched(name)
    options = dict(word.removeprefix("--").split("=") for word in words[1:] if "=" in word) or dict(
        zip((word.removeprefix("--") for word in words[1::2]), words[2::2], strict=True)
    )
    known = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}).output
    assert all(f"--{option} " in known for option in options)
    mesh = configs.load(EXAMPLE / Path(options["config"]).name).mesh
    assert math.prod(dataclasses.asdict(mesh).values()) == chips
    assert options["out"].startswith("/bucket/")  # what is taken up again must outlive the machine


def test_the_example_fills_the_devices_with_whole_rows() -> None:
    for path in EXAMPLE.glob("*.toml"):
        config = configs.load(path)
        rows = config.mesh.data * config.mesh.fsdp * config.mesh.expert
        for count in (config.train.batch_size, config.memory.prompts, config.validation.batch_size):
            assert count % rows == 0, path
