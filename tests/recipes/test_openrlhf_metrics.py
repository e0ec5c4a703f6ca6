"""The names in `extra_logs` beside the names that OpenRLHF logs itself, read from its source.

OpenRLHF writes both into one dictionary of metrics. A name that is in it already hides the other
value of that name: `ActorPPOTrainer.training_step` skips a field of `Experience` whose name it has.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from openrlhf.trainer.ppo_utils.experience import Experience

from reward_server.http.answer_schema import ExtraLogs

# Some that its log has, from each place where names come from.
KNOWN = {
    "reward", "score", "response_clip_ratio", "kl", "logprobs_diff", "return", "group_reward_std",
    "ppo_clip_ratio", "policy_loss", "actor_lr", "actor_grad_norm", "critic_loss", "values",
    "critic_lr", "rollout/truncated_rate", "timing/generation", "dynamic_filtering_pass_rate",
    "truncated", "response_length", "total_length",
}  # fmt: skip


def names_in(tree: ast.AST) -> Iterator[str]:
    """Keys of dictionaries: those in literals, and those that are assigned."""
    for node in ast.walk(tree):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            keys = node.keys
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value


@pytest.fixture(scope="module")
def upstream() -> set[str]:
    package = importlib.util.find_spec("openrlhf")
    assert package is not None
    assert package.origin is not None
    files = (Path(package.origin).parent / "trainer").rglob("*.py")
    found = {name for file in files for name in names_in(ast.parse(file.read_text()))}
    return found | {field.name for field in dataclasses.fields(Experience)}


def test_no_name_of_ours_hides_one_of_openrlhf(upstream: set[str]) -> None:
    assert upstream >= KNOWN
    ours = set(ExtraLogs.model_fields)
    assert "over_context" in ours
    assert not ours & upstream
