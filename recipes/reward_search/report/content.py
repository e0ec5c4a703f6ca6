"""What the report says, as plain values: the same for HTML, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eval.statistics.metrics import Estimate
from recipes.cpu_demo.arms import BASELINE
from recipes.reward_search.candidates import Candidate
from recipes.reward_search.comparison import FinalComparison, compare_finalists
from recipes.reward_search.finalists import Finalist
from recipes.reward_search.loop import find_winner, rank_candidates
from recipes.reward_search.rewards import CONTROLS
from recipes.reward_search.scores import Estimates, estimate, read_samples
from recipes.reward_search.screening import find_evaluation, is_done
from recipes.reward_search.state import Search


@dataclass(frozen=True)
class RoundSummary:
    """One round in numbers."""

    number: int
    num_proposed: int
    num_rejected: int
    num_screened: int
    mean: float | None
    """Of what ranks, over the round's screened candidates."""
    best: float | None
    best_so_far: float | None


@dataclass(frozen=True)
class Content:
    """Everything that a report shows."""

    search: Search
    candidates: list[Candidate]
    ranked: list[str]
    """Names of the screened candidates, best first."""
    scores: Mapping[str, Estimates]
    """Of the screened candidates and the controls, on the problems that rank."""
    rounds: list[RoundSummary]
    final: FinalComparison
    winner: Finalist | None

    @property
    def controls(self) -> list[tuple[str, str]]:
        """Names and titles of those that were trained."""
        return [(arm.name, arm.title) for arm in CONTROLS if arm.name in self.scores]


def collect(search: Search) -> Content:
    """Reads the search's folder."""
    seed = search.settings.seed
    controls = [arm.name for arm in CONTROLS if is_done(search.folder, arm.name, seed)]
    ranked = rank_candidates(search)
    samples = {
        name: read_samples(find_evaluation(search.folder, name, seed), "ranking")
        for name in (*controls, *ranked)
    }
    scores = {name: estimate(one, samples[BASELINE.name]) for name, one in samples.items()}
    return Content(
        search=search,
        candidates=search.candidates,
        ranked=ranked,
        scores=scores,
        rounds=_summarize_rounds(search, scores),
        final=compare_finalists(search),
        winner=find_winner(search),
    )


def get_value(scores: Estimates, rank_by: str) -> float | None:
    """What ranks, as a number."""
    return (scores.aes if rank_by == "aes" else scores.f1).value


def _summarize_rounds(search: Search, scores: Mapping[str, Estimates]) -> list[RoundSummary]:
    found = []
    so_far: list[float] = []
    for number in sorted({one.round for one in search.candidates}):
        of_round = [one for one in search.candidates if one.round == number]
        screened = [one for one in of_round if one.status == "screened"]
        given = [get_value(scores[one.name], search.settings.rank_by) for one in screened]
        values = [value for value in given if value is not None]
        so_far += values
        found.append(
            RoundSummary(
                number,
                len(of_round),
                sum(one.status == "rejected" for one in of_round),
                len(screened),
                sum(values) / len(values) if values else None,
                max(values, default=None),
                max(so_far, default=None),
            )
        )
    return found


def show(estimate: Estimate, scale: float = 1.0, digits: int = 3, sign: str = "") -> str:
    """An estimate with its interval, such as "84.6 (81.0 to 88.0)"."""
    if estimate.value is None:
        return "undefined"
    text = f"{scale * estimate.value:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    low, high = scale * estimate.low, scale * estimate.high
    return f"{text} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def show_p(p: float | None) -> str:
    """A p-value. None: there was nothing to test."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def to_json(content: Content) -> dict[str, Any]:
    """Contents of results.json."""
    own = content.search.settings.own
    return {
        **({"own": asdict(own)} if own else {}),
        "candidates": [
            {
                "name": one.name,
                "round": one.round,
                "status": one.status,
                "reason": one.reason,
                "parents": list(one.parents),
                "rank": content.ranked.index(one.name) + 1 if one.name in content.ranked else None,
                "scores": content.scores[one.name].to_json()
                if one.name in content.scores
                else None,
            }
            for one in content.candidates
        ],
        "controls": {name: content.scores[name].to_json() for name, _ in content.controls},
        "rounds": [vars(one) for one in content.rounds],
        "finalists": [
            {"name": one.label, "title": one.title, "scores": one.scores.to_json()}
            for one in content.final.compared
        ],
        "pairs": [
            {
                "baseline": one.baseline.label,
                "other": one.other.label,
                "accuracy_gain": one.paired.accuracy.gain.estimate().to_json(),
                "mcnemar_p": one.mcnemar.p,
                "mcnemar_p_bonferroni": one.mcnemar.bonferroni,
                "tokens_gain": one.paired.tokens.gain.estimate().to_json(),
                "tokens_p_bonferroni": one.paired.tokens.test.bonferroni,
            }
            for one in content.final.pairs
        ],
        "seeds": [row.to_json() for row in content.final.seeds],
        "winner": None
        if content.winner is None
        else {"name": content.winner.label, "weights": dict(content.winner.weights)},
        "minutes": round(content.search.used_s / 60, 1),
        "ended_by_budget": content.search.ended_by_budget,
    }
