"""What would help a run that does not fit: the knobs that it has not turned yet, those that cost least first."""

from typing import TYPE_CHECKING

from audiorl_cli.config import RunConfig

if TYPE_CHECKING:
    from audiorl_cli.tpu.plan import Plan

_GIB = 2**30


def advice(config: RunConfig, plan: "Plan | None", program: str | None = None) -> tuple[str, ...]:
    """What to change, of a `plan` that is too large, or of a `program` that XLA refuses."""
    name = plan.fullest if plan else program
    found: list[str] = []
    if name in ("update", "score"):
        found += _of_update(config, plan)
    elif name == "sample":
        found += _of_sample(config, plan)
    if plan is None or plan.resident.total > plan.hbm / 2:
        found += _of_resident(config, plan)
    return tuple(found)


def _of_update(config: RunConfig, plan: "Plan | None") -> list[str]:
    memory, found = config.memory, []
    if not memory.recompute:
        found.append("memory.recompute = true (keeps one input a layer, not all that it makes)")
    if not memory.vocabulary:
        found.append("memory.vocabulary = 19008 (logits in parts)")
    shards = _shards(plan)
    if not memory.prompts or memory.prompts > shards:
        found.append(f"memory.prompts = {shards} (a prompt a chip at a time)" if plan else "a lower memory.prompts")
    if memory.completions != 1:
        found.append("memory.completions = 1 (of a prompt at a time)")
    return found


def _of_sample(config: RunConfig, plan: "Plan | None") -> list[str]:
    cache = f" (keys and values take {plan.cache / _GIB:.1f} GiB)" if plan else ""
    found = [f"a lower train.batch_size or rollout.group_size{cache}"]
    if plan is None or plan.mesh["tp"] == 1:
        found.append("mesh.tensor = 2 (halves what is kept of tokens)")
    return found


def _of_resident(config: RunConfig, plan: "Plan | None") -> list[str]:
    found = []
    if plan and plan.resident.reference > plan.hbm / 20:
        found.append(f"loss.beta = 0 (no reference model: {plan.resident.reference / _GIB:.1f} GiB less)")
    if plan and plan.mesh["dp"] > 1:
        found.append("mesh.data = 1, its chips to mesh.fsdp (weights divided, not copied)")
    if not config.lora.rank:
        saved = f": {(plan.resident.optimizer + plan.gradients) / _GIB:.1f} GiB less" if plan else ""
        found.append(f"lora.rank = 32 (no moments and gradients of whole weights{saved})")
    found.append("a larger slice, its chips to mesh.expert or mesh.fsdp (--search finds the smallest)")
    return found


def _shards(plan: "Plan | None") -> int:
    return plan.mesh["dp"] * plan.mesh["fsdp"] * plan.mesh["ep"] if plan else 0
