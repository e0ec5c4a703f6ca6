"""The benchmark of composed rewards: its groups are groups, and its figures come out."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from performance import composing
from performance.servers import generate_requests
from sar.terms.reward_file import read_reward_file


def test_rollouts_of_a_group_follow_each_other() -> None:
    sent = list(islice(generate_requests(3, composing.GROUP_SIZE), 4 * composing.GROUP_SIZE))
    for start in range(0, len(sent), composing.GROUP_SIZE):
        group = sent[start : start + composing.GROUP_SIZE]
        assert len({one["prompts"][0] for one in group}) == 1
        assert len({one["query"][0] for one in group}) == composing.GROUP_SIZE
    assert len({one["prompts"][0] for one in sent}) == 4


def test_the_rewards_that_are_compared(tmp_path: Path) -> None:
    for text, formula in (
        (composing._DEFAULT, "correctness + 0.2 sar"),
        (composing._GROUPED, "correctness + 0.2 sar + 0.2 o1_pruner, in groups of 8"),
    ):
        file = tmp_path / "reward.toml"
        file.write_text(text)
        assert read_reward_file(file).formula == formula


@pytest.mark.slow
def test_the_figures_come_out() -> None:
    request, groups = composing.measure(quick=True)
    assert (len(request.samples), len(groups.samples)) == (4, 2)
    assert all(ratio > 0 for one in (request, groups) for ratio in one.samples)
    assert (request.at_most, groups.at_least) == (1.02, 0.9)
