"""What `bridge/keys.py` relies on in the installed EasyDeL, read from its source text: no JAX, no EasyDeL imported."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from audiorl_cli import core

LISTS = {name: module for module, name in core.EASYDEL_KEY_SETS}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Module name -> syntax tree, of every EasyDeL module that names one of the lists."""
    spec = find_spec("easydel")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if any(name in text for name in [*LISTS, core.PROMPT_ALIGNED[1]]):
            parts = ("easydel", *path.relative_to(root).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(text)
    return found


def assigned(tree: ast.Module, name: str) -> list[ast.expr]:
    return [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
    ]


def strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that are evaluated at import: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*child.args.defaults, *(d for d in child.args.kw_defaults if d is not None)]
            decorators = [] if isinstance(child, ast.Lambda) else child.decorator_list
            for part in (*defaults, *decorators):
                yield part
                yield from run_at_import(part)
        else:
            yield child
            yield from run_at_import(child)


@pytest.mark.parametrize("name", [*LISTS, core.PROMPT_ALIGNED[1]])
def test_each_list_is_defined_once_in_the_module_core_names(trees: dict[str, ast.Module], name: str) -> None:
    where = [module for module, tree in trees.items() for _ in assigned(tree, name)]
    assert where == [LISTS.get(name, core.PROMPT_ALIGNED[0])]  # type: ignore[call-overload]


@pytest.mark.parametrize("name", [*LISTS, core.PROMPT_ALIGNED[1], "SHARED_GENERATION_MODEL_INPUT_KEYS"])
def test_upstream_names_no_audio_key(trees: dict[str, ast.Module], name: str) -> None:
    values = [value for tree in trees.values() for value in assigned(tree, name)]
    assert len(values) == 1
    names = strings(values[0])
    assert len(names) >= 2, "the list is no longer spelt out where it is assigned"
    assert not names & core.AUDIO_KEYS


def test_the_lists_are_imported_by_name_where_apply_rebinds_them(trees: dict[str, ast.Module]) -> None:
    importers = {
        (module, alias.name, alias.asname)
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in LISTS
    }
    assert importers == {
        ("easydel.trainers.base_trainer", "GENERATION_MODEL_INPUT_KEYS", None),
        ("easydel.trainers.utils", "GENERATION_MODEL_INPUT_KEYS", None),
    }


def test_one_other_list_is_computed_from_them_at_import(trees: dict[str, ast.Module]) -> None:
    """A default argument or a constant computed at import would keep what the list held before `apply`."""
    loads = [
        (module, node.id, node.lineno)
        for module, tree in trees.items()
        for node in run_at_import(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in LISTS
    ]
    flattenable = assigned(trees["easydel.trainers.utils"], "FLATTENABLE_MULTIMODAL_KEYS")[0]
    assert [(module, name) for module, name, _ in loads] == [("easydel.trainers.utils", "GENERATION_MODEL_INPUT_KEYS")]
    assert flattenable.lineno <= loads[0][2] <= (flattenable.end_lineno or 0)
    assert ".intersection(GENERATION_MODEL_INPUT_KEYS)" in ast.unparse(flattenable)


def test_both_grpo_collators_read_the_lists(trees: dict[str, ast.Module]) -> None:
    collators = {
        node.name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        for node in trees["easydel.trainers.utils"].body
        if isinstance(node, ast.ClassDef) and node.name.startswith("GRPODataCollator")
    }
    assert collators.keys() == {"GRPODataCollatorTFDS", "GRPODataCollatorGrain"}
    assert {"GENERATION_MODEL_INPUT_KEYS", "FLATTENABLE_MULTIMODAL_KEYS"} <= collators["GRPODataCollatorTFDS"]
    assert "FLATTENABLE_MULTIMODAL_KEYS" in collators["GRPODataCollatorGrain"]
