"""Configs: TOML in and out, overrides, and every way of being wrong refused with the key that is wrong."""

import math
from pathlib import Path
from typing import Any

import pytest

from audiorl_cli import config
from audiorl_cli.config import LoraConfig, LossConfig, MemoryConfig, MeshConfig, RewardConfig, RolloutConfig, RunConfig
from audiorl_cli.errors import ConfigError


def test_no_file_is_all_defaults() -> None:
    assert config.load(None) == RunConfig()


def test_a_dumped_config_loads_as_an_equal_one(tmp_path: Path) -> None:
    written = RunConfig(
        seed=7,
        reward=RewardConfig(
            weights={"wer": 0.7, "exact": -0.25, "keyword_recall": 0.5, "format": 0.5, "my.rewards:numbers": 0.5},
            normaliser="none",
            boilerplate="strip",
            boilerplate_patterns=(r"\AIt says:\s", "“"),
            keywords=("Lyon",),
            format='[A-Z].*"',
        ),
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
    ("loss.epsilon_high=-0.1", r"loss\.epsilon_high: expected > 0, or to be left out"),
    ("loss.epsilon_high=0", r"loss\.epsilon_high: expected > 0, or to be left out"),
    ("loss.kl_estimator=k4", r"loss\.kl_estimator: expected one of k1, k2, k3, unbiased, got 'k4'"),
    ("loss={beta = 0, kl_estimator = 'k2'}", r"loss\.kl_estimator: expected loss\.beta > 0 with it"),
    ("loss={kind = 'dapo', kl_estimator = 'unbiased'}", r"loss\.kl_estimator: expected loss\.beta > 0 with it"),
    ("loss.gfpo_metric=efficiency", r"loss\.gfpo_metric: expected none for kind grpo, got 'efficiency'"),
    ("loss.mask_truncated=1", r"loss\.mask_truncated: expected bool, got 1"),
    ("optimizer.beta1=1", r"optimizer\.beta1: expected in \[0, 1\), got 1\.0"),
    ("optimizer.beta2=-0.1", r"optimizer\.beta2: expected in \[0, 1\), got -0\.1"),
    ("optimizer.epsilon=0", r"optimizer\.epsilon: expected in \[1e-16, 1\], got 0\.0"),
    ("optimizer.epsilon=1e-20", r"optimizer\.epsilon: expected in \[1e-16, 1\]"),
    ("lora.alpha=16", r"lora\.alpha: expected lora\.rank > 0 with it, got 16\.0"),
    ("lora.modules=.*", r"lora\.modules: expected lora\.rank > 0 with it"),
    ("loss.delta=1.2", r"loss\.delta: expected > 1\.2 \(the clip\)"),
    ("loss.delta=-1", r"loss\.delta: expected > 1\.2"),
    ("loss.iterations=0", r"loss\.iterations: expected >= 1"),
    ("loss.kind=gfpo", r"loss\.gfpo_keep: expected >= 2 \(one alone has no advantage\), got 0"),
    ("loss.gfpo_keep=4", r"loss\.gfpo_keep: expected 0 for kind grpo, got 4"),
    ("loss.gfpo_metric=words", r"loss\.gfpo_metric: expected one of length, efficiency, got 'words'"),
    ("loss.overlong_buffer=-1", r"loss\.overlong_buffer: expected >= 0"),
    ("loss.overlong_buffer=65", r"loss\.overlong_buffer: expected <= rollout\.max_new_tokens \(64\), got 65"),
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
    ("reward.weights.bleu=1", r"reward\.weights: expected one of wer, .*, or module:function, got 'bleu'"),
    ('reward.weights={"my.rewards:" = 1}', r"reward\.weights: expected one of wer, .* got 'my\.rewards:'"),
    ("reward.weights.format=1", r"reward\.format: expected some, for the reward format, got ''"),
    ("reward.weights.keyword_recall=1", r"reward\.keywords: expected some, for the reward keyword_recall, got \(\)"),
    ("reward.keywords=['a']", r"reward\.keywords: expected a weight for the reward keyword_recall with it, got"),
    ("reward.format=.*", r"reward\.format: expected a weight for the reward format with it, got '\.\*'"),
    ("reward.boilerplate_patterns=['a']", r"reward\.boilerplate_patterns: expected a weight for the reward boilerpl"),
    ("reward.format=(", r"reward\.format: expected a regular expression \(.*\), got '\('"),
    ('reward.boilerplate_patterns=["a", "("]', r"reward\.boilerplate_patterns: expected a regular expression"),
    ("reward.boilerplate=drop", r"reward\.boilerplate: expected one of keep, strip, got 'drop'"),
    ("reward.keywords=lyon", r"reward\.keywords: expected a list of texts, got 'lyon'"),
    ("reward.keywords=[1]", r"reward\.keywords: expected str, got 1"),
    ("lora.rank=-1", r"lora\.rank: expected >= 0"),
    ("lora.alpha=0", r"lora\.alpha: expected > 0"),
    (
        "lora={rank = 4, modules = '(q|v'}",
        r"lora\.modules: expected a regular expression \(missing \).*\), got '\(q\|v'",
    ),
    ("lora.pattern=.*", r"lora\.pattern: expected one of rank, alpha, modules"),
    ("mesh.tensor=0", r"mesh\.tensor: expected >= 1, or -1"),
    ("mesh.data=-1", r"mesh: expected at most one axis of -1"),
    ("engine=other", r"engine: expected one of audiorl, easydel"),
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


# What EasyDeL's trainer would ignore, or take for another thing.
NOT_EASYDEL = [
    (
        {"loss": LossConfig(kind="bnpo")},
        r'loss\.kind: expected another kind with engine = "easydel", whose bnpo is not the paper\'s',
    ),
    (
        {"loss": LossConfig(kind="cispo")},
        r'loss\.kind: expected one of grpo, dr_grpo, dapo with engine = "easydel", got \'cispo\'',
    ),
    ({"loss": LossConfig(kind="gspo")}, r"loss\.kind: expected one of grpo"),
    ({"loss": LossConfig(kind="gfpo", gfpo_keep=4)}, r"loss\.kind: expected one of grpo"),
    ({"loss": LossConfig(iterations=2)}, r'loss\.iterations: expected 1 with engine = "easydel", got 2'),
    ({"loss": LossConfig(kl_estimator="k2")}, r'loss\.kl_estimator: expected k3 with engine = "easydel", got \'k2\''),
    ({"loss": LossConfig(mask_truncated=True)}, r'loss\.mask_truncated: expected false with engine = "easydel"'),
    ({"loss": LossConfig(delta=4.0)}, r'loss\.delta: expected 0 with engine = "easydel"'),
    ({"loss": LossConfig(overlong_buffer=16)}, r'loss\.overlong_buffer: expected 0 with engine = "easydel"'),
    ({"rollout": RolloutConfig(min_p=0.1)}, r'rollout\.min_p: expected 0 with engine = "easydel", got 0\.1'),
    ({"rollout": RolloutConfig(rounds=2)}, r'rollout\.rounds: expected 1 with engine = "easydel", got 2'),
    ({"memory": MemoryConfig(recompute=True)}, r'memory: expected nothing with engine = "easydel"'),
]


@pytest.mark.parametrize(("changes", "message"), NOT_EASYDEL)
def test_what_easydel_would_not_do_is_refused_for_its_engine_alone(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(engine="easydel", **changes)
    assert RunConfig(**changes) != RunConfig()


@pytest.mark.parametrize(("name", "whole"), [("prompts", 8), ("completions", 8)])
def test_what_is_held_at_once_divides_the_whole(name: str, whole: int) -> None:
    assert config.load(None, [f"memory.{name}=4"]).memory != MemoryConfig()
    with pytest.raises(ConfigError, match=rf"memory\.{name}: expected a divisor of {whole}, or 0, got 3"):
        config.load(None, [f"memory.{name}=3"])
    with pytest.raises(ConfigError, match=rf"memory\.{name}: expected >= 0, got -1"):
        config.load(None, [f"memory.{name}=-1"])


def test_masters_are_refused_where_weights_need_none() -> None:
    asked = ["train.dtype=bfloat16", "train.master_weights=true"]
    assert config.load(None, asked).train.master_weights
    for more, reason in (
        (["train.dtype=float32"], "with dtype float32"),
        (["lora.rank=4"], r"with lora\.rank"),
        (["engine=easydel"], "with engine"),
    ):
        with pytest.raises(ConfigError, match=rf"train\.master_weights: expected false {reason}"):
            config.load(None, [*asked, *more])


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo"])
def test_what_easydel_does_is_allowed(kind: str) -> None:
    assert config.load(None, ["engine=easydel", f"loss.kind={kind}", "loss.epsilon=0.1"]).loss.kind == kind


# beta, epsilon, epsilon_high
OWN = {
    "grpo": (0.04, 0.2, 0.2),
    "bnpo": (0.0, 0.2, 0.28),
    "dr_grpo": (0.0, 0.2, 0.2),
    "dapo": (0.0, 0.2, 0.28),
    "cispo": (0.0, 1.0, 4.0),
    "gspo": (0.0, 3e-4, 4e-4),
    "gfpo": (0.04, 0.2, 0.2),
}


@pytest.mark.parametrize("kind", list(OWN))
def test_a_kind_of_loss_has_the_numbers_of_its_paper_unless_they_are_set(kind: Any, tmp_path: Path) -> None:
    keep = ["loss.gfpo_keep=4"] if kind == "gfpo" else []
    loaded = config.load(None, [f"loss.kind={kind}", *keep])
    assert (loaded.loss.beta, loaded.loss.epsilon, loaded.loss.epsilon_high) == OWN[kind]
    path = tmp_path / "config.toml"
    path.write_text(config.dump(loaded), encoding="utf-8")
    assert f"beta = {OWN[kind][0]}\n" in path.read_text(encoding="utf-8")
    assert config.load(path) == loaded
    asked = ["loss.beta=0.5", "loss.epsilon=0.1", "loss.epsilon_high=0.3"]
    changed = config.load(None, [f"loss.kind={kind}", *keep, *asked])
    assert (changed.loss.beta, changed.loss.epsilon, changed.loss.epsilon_high) == (0.5, 0.1, 0.3)


def test_the_upper_clip_of_grpo_is_the_lower_unless_it_is_set() -> None:
    assert LossConfig(epsilon=0.1).epsilon_high == 0.1
    assert LossConfig(epsilon=0.1, epsilon_high=0.28).epsilon_high == 0.28
    assert LossConfig(kind="dapo", epsilon=0.1).epsilon_high == 0.28
    with pytest.raises(ConfigError, match=r"loss\.delta: expected > 1\.28"):
        LossConfig(epsilon=0.1, epsilon_high=0.28, delta=1.25)


@pytest.mark.parametrize("kind", ["cispo", "gspo"])
def test_a_cap_is_refused_for_kinds_without_that_clip(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss\.delta: expected .* for kinds that clip tokens, or 0"):
        LossConfig(kind=kind, delta=4.0)


def test_gfpo_keeps_no_more_than_a_group() -> None:
    assert RunConfig(loss=LossConfig(kind="gfpo", gfpo_keep=8)).loss.gfpo_keep == 8
    with pytest.raises(ConfigError, match=r"loss\.gfpo_keep: expected <= rollout\.group_size \(8\), got 9"):
        RunConfig(loss=LossConfig(kind="gfpo", gfpo_keep=9))
    with pytest.raises(ConfigError, match=r"loss\.gfpo_keep: expected >= 2"):
        LossConfig(kind="gfpo", gfpo_keep=1)


def test_efficiency_takes_rewards_from_0_on_only() -> None:
    """-1 for 10 tokens is a higher reward a token than -1 for one."""
    efficient: Any = {"kind": "gfpo", "gfpo_keep": 4, "gfpo_metric": "efficiency"}
    assert RunConfig(loss=LossConfig(**efficient), reward=RewardConfig({"wer": 2.0, "exact": 1.0}))
    for weights in ({"wer": -1.0}, {"wer": 1.0, "repetition": 0.25}, {"wer": 1.0, "my:own": 0.5}):
        with pytest.raises(ConfigError, match=r"reward\.weights: expected >= 0, .* for loss\.gfpo_metric efficiency"):
            RunConfig(loss=LossConfig(**efficient), reward=RewardConfig(weights))
    with pytest.raises(ConfigError, match=r"loss\.overlong_buffer: expected 0 for gfpo_metric efficiency"):
        RunConfig(loss=LossConfig(**efficient, overlong_buffer=16))
    with pytest.raises(ConfigError, match=r"loss\.kl_estimator: expected one that leaves the reward alone"):
        RunConfig(loss=LossConfig(**efficient, kl_estimator="k1"))
    assert RunConfig(loss=LossConfig(kind="gfpo", gfpo_keep=4, overlong_buffer=16, kl_estimator="k1"))


def test_the_range_of_a_sum_is_that_of_its_rewards() -> None:
    assert RewardConfig({"wer": 0.5, "repetition": 0.25}).range == (-0.25, 0.5)
    assert RewardConfig({"wer": -0.5, "insertion": -0.25, "exact": 1.0}).range == (-0.5, 1.25)
    assert RewardConfig({"wer": 1.0, "my:own": 0.5}).range == (-math.inf, math.inf)


def test_bnpo_takes_rewards_from_0_to_1_only() -> None:
    bnpo = LossConfig(kind="bnpo")
    assert RunConfig(loss=bnpo, reward=RewardConfig({"wer": 0.7, "cer": 0.2, "exact": 0.1})).loss == bnpo
    assert RunConfig(loss=bnpo, reward=RewardConfig({"wer": 1.0, "repetition": 0.0, "my:own": 0.0})).loss == bnpo
    for weights in (
        {"wer": 1.5},
        {"wer": 1.0, "exact": 0.25},
        {"wer": 1.0, "exact": -0.25},
        {"wer": 1.0, "repetition": 0.25},
        {"wer": 0.5, "my.module:own": 0.25},
    ):
        with pytest.raises(ConfigError, match=r"reward\.weights: expected >= 0, .* for kind bnpo"):
            RunConfig(loss=bnpo, reward=RewardConfig(weights))
    with pytest.raises(ConfigError, match=r"loss\.overlong_buffer: expected 0 for kind bnpo"):
        RunConfig(loss=LossConfig(kind="bnpo", overlong_buffer=16))
    with pytest.raises(ConfigError, match=r"loss\.kl_estimator: expected one that leaves the reward alone"):
        RunConfig(loss=LossConfig(kind="bnpo", beta=0.1, kl_estimator="k1"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_byte_order_mark_and_any_line_end_are_read(tmp_path: Path, mark: bytes, end: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(mark + b"seed = 7" + end + b"[train]" + end + b"steps = 3" + end)
    found = config.load(path)
    assert (found.seed, found.train.steps) == (7, 3)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_another_encoding_is_one_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text("seed = 7\n", encoding=encoding)
    with pytest.raises(ConfigError, match=f"{path}: expected (UTF-8, got UTF-16|valid TOML)"):
        config.load(path)
