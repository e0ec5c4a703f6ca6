"""The report's sentences."""

from __future__ import annotations

from recipes.reward_search.comparison import Pair
from recipes.reward_search.report.content import Content, show, show_p
from recipes.reward_search.rewards import CONTROLS, RANDOM_DRAW, TOP_BY_RANK, TOP_EVEN

_ALPHA = 0.05


def describe_outcome(content: Content) -> list[str]:
    """What the search did and found, a sentence or two each."""
    search = content.search
    num_rejected = sum(one.status == "rejected" for one in content.candidates)
    num_waiting = sum(one.status == "waiting" for one in content.candidates)
    own = search.settings.own
    lines = []
    if own:
        lines.append(
            f"Policy: {own.policy}, trained on {own.train_data}. Benchmarks: "
            f"{own.benchmarks.replace(',', ', ')}."
        )
    lines.append(
        f"{len(content.candidates)} candidates in {len(content.rounds)} rounds: {num_rejected} "
        f"rejected, {len(content.ranked)} screened, in {search.used_s / 60:.1f} minutes."
    )
    if search.ended_by_budget:
        waiting = f" {num_waiting} accepted candidates were not trained." if num_waiting else ""
        lines.append(f"The budget ended the search before it was complete.{waiting}")
    if not search.is_finished:
        lines.append("The search is not finished.")
    if content.winner is None:
        return [*lines, "No candidate was screened, so there is no winner."]
    lines.append(f"Winner: {content.winner.title}.")
    return lines + [describe_pair(pair, len(content.final.pairs)) for pair in _pick(content)]


def _pick(content: Content) -> list[Pair]:
    """The pairs that the paper draws conclusions from."""
    assert content.winner is not None
    winner, best = content.winner.label, content.ranked[0]
    asked = [(arm.name, winner) for arm in CONTROLS]
    asked += [(best, TOP_EVEN), (best, TOP_BY_RANK), (RANDOM_DRAW, best), (RANDOM_DRAW, TOP_EVEN)]
    found = []
    for pair in content.final.pairs:
        names = pair.baseline.label, pair.other.label
        if names in asked or names[::-1] in asked:
            found.append(pair)
    return found


def describe_pair(pair: Pair, num_pairs: int) -> str:
    """Both differences of a pair, and whether the tests show them."""
    accuracy, tokens = pair.paired.accuracy, pair.paired.tokens
    is_shown = _is_significant(pair.mcnemar.bonferroni)
    is_length_shown = _is_significant(tokens.test.bonferroni)
    return (
        f"{pair.other.title} against {pair.baseline.title}: accuracy "
        f"{show(accuracy.gain.estimate(), 100, 1, '+')} points, "
        f"{'a difference' if is_shown else 'no difference shown'} "
        f"(McNemar, p x {num_pairs}: {show_p(pair.mcnemar.bonferroni) or 'none'}); tokens "
        f"{show(tokens.gain.estimate(), 1, 1, '+')}, "
        f"{'a difference' if is_length_shown else 'no difference shown'} "
        f"(sign flips, p x {num_pairs}: {show_p(tokens.test.bonferroni) or 'none'})."
    )


def _is_significant(p: float | None) -> bool:
    return p is not None and p < _ALPHA
