"""Configs: TOML in and out, overrides, and every way of being wrong refused with the key that is wrong."""

from pathlib import Path

import pytest

from audiorl_cli import config
from audiorl_cli.config import LoraConfig, MeshConfig, RewardConfig, RolloutConfig, RunConfig
from audiorl_cli.errors import ConfigError


def test_no_file_is_all_defaults() -> None:
    assert config.load(None) == RunConfig()


def test_a_dumped_config_loads_as_an_equal_one(tmp_path: Path) -> None:
    written = RunConfig(
        seed=7,
        reward=RewardConfig(weights={"wer": 0.7, "exact": -0.25}, normaliser="none"),
        rollout=RolloutConfig(group_size=4, temperature=0.1 + 0.2),
        lora=LoraConfig(rank=16, modules=r"model\.layers\.\d+\.self_attn\.q_proj"),
        mesh=MeshConfig(data=-1, fsdp=2),
    )
    path = tmp_path / "config.toml"
    path.write_text(config.dump(written), encoding="utf-8")
    assert config.load(path) == written
    assert config.from_table({}) == RunConfig()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[rollout]\ngroup_size = 4\n[loss]\nkind = "dapo"\nbeta = 0\n', encoding="utf-8")
    loaded = config.load(path)
    assert (loaded.rollout.group_size, loaded.loss.kind, loaded.loss.beta) == (4, "dapo", 0.0)
    assert isinstance(loaded.loss.beta, float)
    assert loaded.train == RunConfig().train


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("seed = 1\n[train]\nsteps = 5\n", encoding="utf-8")
    loaded = config.load(
        path,
        [
            "train.steps=6",
            "train.steps=7",
            "train.freeze_audio_tower=false",
            "reward.normaliser=none",  # a bare word is a string
            'prompt.instruction="Write = down, [all] of it."',
            'prompt.system="one"\nother = 2',  # a text, though its lines could be TOML
            "reward.weights={cer=1}",
            "reward.weights.exact=0.5",
        ],
    )
    assert loaded.seed == 1
    assert loaded.train.steps == 7
    assert loaded.train.freeze_audio_tower is False
    assert loaded.reward == RewardConfig({"cer": 1.0, "exact": 0.5}, "none")
    assert loaded.prompt.instruction == "Write = down, [all] of it."
    assert loaded.prompt.system == '"one"\nother = 2'


WRONG = [
    ("sead=1", r"sead: expected one of engine, seed, .*got an unknown key"),
    ("rollout.top_q=1", r"rollout\.top_q: expected one of group_size"),
    ("rollout=3", r"rollout: expected a section, got 3. Write it as \[rollout\]"),
    ("rollout.group_size=1", r"rollout\.group_size: expected >= 2"),
    ("rollout.group_size=2.0", r"rollout\.group_size: expected int, got 2\.0"),
    ("rollout.group_size=true", r"rollout\.group_size: expected int, got True"),
    ("rollout.group_size=four", r"rollout\.group_size: expected int, got 'four'"),
    ("rollout.temperature=0", r"rollout\.temperature: expected > 0"),
    ("rollout.top_p=1.01", r"rollout\.top_p"),
    ("rollout.top_k=-1", r"rollout\.top_k"),
    ("rollout.max_new_tokens=0", r"rollout\.max_new_tokens"),
    ("optimizer.learning_rate=nan", r"optimizer\.learning_rate: expected a finite number"),
    ("optimizer.learning_rate=inf", r"optimizer\.learning_rate: expected a finite number"),
    ("optimizer.learning_rate=true", r"optimizer\.learning_rate: expected float, got True"),
    ("optimizer.clip_norm=0", r"optimizer\.clip_norm"),
    ("optimizer.schedule=step", r"optimizer\.schedule: expected one of constant, linear, cosine, got 'step'"),
    ("loss.kind=ppo", r"loss\.kind"),
    ("loss.beta=-0.1", r"loss\.beta"),
    ("loss.epsilon=0", r"loss\.epsilon"),
    ("train.steps=0", r"train\.steps"),
    ("train.keep=0", r"train\.keep"),
    ("train.dtype=float16", r"train\.dtype"),
    ("train.freeze_audio_tower=1", r"train\.freeze_audio_tower: expected bool, got 1"),
    ("warmstart.batch_size=0", r"warmstart\.batch_size"),
    ("warmstart.learning_rate=0", r"warmstart\.learning_rate"),
    ("reward.weights={}", r"reward\.weights: expected at least one"),
    ("reward.weights=1", r"reward\.weights: expected a table of numbers"),
    ("reward.weights.wer=much", r"reward\.weights\.wer: expected float, got 'much'"),
    ("reward.weights.wer=nan", r"reward\.weights\.wer: expected a finite number"),
    ("lora.rank=-1", r"lora\.rank: expected >= 0"),
    ("lora.alpha=0", r"lora\.alpha: expected > 0"),
    ("lora.modules=(q|v", r"lora\.modules: expected a regular expression \(missing \).*\), got '\(q\|v'"),
    ("lora.pattern=.*", r"lora\.pattern: expected one of rank, alpha, modules"),
    ("mesh.tensor=0", r"mesh\.tensor: expected >= 1, or -1"),
    ("mesh.data=-1", r"mesh: expected at most one axis of -1"),
    ("engine=other", r"engine: expected one of easydel"),
    ("seed.a=1\x1b", r"seed: expected int"),
    ("seed", r"--set seed: expected a\.b=value"),
    ("=1", r"--set =1: expected a\.b=value"),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_what_is_wrong_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(None, [override])


def test_a_value_cannot_be_given_a_key_below_it() -> None:
    with pytest.raises(ConfigError, match="expected a section named seed, got a value"):
        config.load(None, ["seed=1", "seed.deeper=2"])


def test_bounds_hold_where_a_config_is_built_in_code_too() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.group_size"):
        RolloutConfig(group_size=1)


def test_an_unreadable_file_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nonsuch\.toml: expected a TOML file, got No such file"):
        config.load(tmp_path / "nonsuch.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
    for name, content in (("a.toml", b"steps = "), ("b.toml", b"a = 1\na = 2"), ("c.toml", b"a = '\xff'")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: expected valid TOML"):
            config.load(tmp_path / name)
