"""Statistics of the scores: right against wrong, SAR against length, each variant against honest.

Every number has a 95 % bootstrap interval over rollouts. A variant is compared with the unchanged
response of the same rollout; right and wrong responses belong to different questions, so those two
groups are resampled apart from each other.

Shapes: P rollouts (W wrong ones, G right ones), M measures, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.errors import UserError
from eval.evidence.scores import Score
from eval.evidence.variants import HONEST, VARIANTS
from eval.statistics.bootstrap import (
    apply_unseen_rates,
    draw_unseen_rates,
    make_generator,
    percentile_interval,
    resample_ratios,
)
from eval.statistics.metrics import NUM_RESAMPLES, Estimate
from eval.statistics.samples import Floats, divide
from sar.reward import DEFAULT_SAR_WEIGHT

GROUPS = ("right", "wrong")
"""A rollout's group is the verdict on its unchanged response."""
_SEED = 0


def summarize(scores: Sequence[Score], num_resamples: int = NUM_RESAMPLES) -> dict[str, Any]:
    """All statistics as JSON values: an interval is {"value", "low", "high"}.

    Raises:
        UserError: there are fewer than two right or two wrong responses.
    """
    by_variant: dict[str, dict[int, Score]] = {name: {} for name in VARIANTS}
    for score in scores:
        by_variant[score.variant][score.rollout] = score
    honest = by_variant[HONEST]
    groups = {
        name: [score for score in honest.values() if score.correctness == (name == "right")]
        for name in GROUPS
    }
    if min(map(len, groups.values())) < 2:
        counts = ", ".join(f"{len(members)} {name}" for name, members in groups.items())
        raise UserError(f"intervals need at least two right and two wrong responses, not {counts}")
    # The table of the copies shows the unchanged responses of the same rollouts.
    changed = {score.rollout for score in scores if score.variant != HONEST}
    compared = {
        name: [score for score in members if score.rollout in changed]
        for name, members in groups.items()
    }
    return {
        "num_resamples": num_resamples,
        "sar_weight": DEFAULT_SAR_WEIGHT,
        "unchanged": _compare_groups(groups["right"], groups["wrong"], num_resamples),
        "variants": {
            group: {
                name: _compare_variant(honest, by_variant[name], members, num_resamples)
                for name in VARIANTS
                if any(score.rollout in by_variant[name] for score in members)
            }
            for group, members in compared.items()
        },
    }


def _compare_groups(
    right: Sequence[Score], wrong: Sequence[Score], num_resamples: int
) -> dict[str, Any]:
    random = make_generator(_SEED, "right against wrong")
    sar_G, sar_W = (np.array([score.sar for score in group]) for group in (right, wrong))
    counts_RG, counts_RW = (draw_counts(len(s), num_resamples, random) for s in (sar_G, sar_W))
    tokens_G, tokens_W = (
        np.array([float(score.num_tokens) for score in group]) for group in (right, wrong)
    )
    sar_P, tokens_P = np.concatenate([sar_G, sar_W]), np.concatenate([tokens_G, tokens_W])
    is_right_P = np.repeat([1.0, 0.0], [len(sar_G), len(sar_W)])

    def estimate(function: Any) -> dict[str, float | None]:
        """Of a function of two groups of counts: how often each rollout was drawn."""
        resamples_R = function(counts_RG, counts_RW)
        value = function(np.ones((1, len(sar_G))), np.ones((1, len(sar_W))))[0]
        return _estimate(float(value), resamples_R, min(len(sar_G), len(sar_W)))

    def mean_right(right_RG: Floats, _: Floats) -> Floats:
        return _mean(sar_G, right_RG)

    def mean_wrong(_: Floats, wrong_RW: Floats) -> Floats:
        return _mean(sar_W, wrong_RW)

    def adjusted(right_RG: Floats, wrong_RW: Floats) -> Floats:
        counts_RP = np.concatenate([right_RG, wrong_RW], axis=1)
        return adjusted_difference(sar_P, is_right_P, np.log(tokens_P), counts_RP)

    return {
        "num_right": len(right),
        "num_wrong": len(wrong),
        "sar_right": estimate(mean_right),
        "sar_wrong": estimate(mean_wrong),
        "difference": estimate(lambda g, w: _mean(sar_G, g) - _mean(sar_W, w)),
        "cohens_d": estimate(lambda g, w: cohens_d(sar_G, sar_W, g, w)),
        "right_higher": estimate(lambda g, w: share_higher(sar_G, sar_W, g, w)),
        "difference_at_equal_length": estimate(adjusted),
        "spearman_with_length_right": _correlate(sar_G, tokens_G, "right", num_resamples),
        "spearman_with_length_wrong": _correlate(sar_W, tokens_W, "wrong", num_resamples),
    }


def _compare_variant(
    honest: Mapping[int, Score],
    changed: Mapping[int, Score],
    members: Sequence[Score],
    num_resamples: int,
) -> dict[str, Any]:
    """Means of one variant, and what differs from the unchanged response of the same rollout."""
    pairs = [(honest[s.rollout], changed[s.rollout]) for s in members if s.rollout in changed]
    weight = DEFAULT_SAR_WEIGHT
    sar_P2 = np.array([(old.sar, new.sar) for old, new in pairs])
    reward_P2 = np.array([(old.reward(weight), new.reward(weight)) for old, new in pairs])
    measures = {
        "sar": sar_P2[:, 1],
        "difference": sar_P2[:, 1] - sar_P2[:, 0],
        "squared_difference": (sar_P2[:, 1] - sar_P2[:, 0]) ** 2,
        "honest_sar_higher": _wins(sar_P2),
        "tokens": np.array([float(new.num_tokens) for _, new in pairs]),
        "correctness": np.array([float(new.correctness) for _, new in pairs]),
        "reward": reward_P2[:, 1],
        "honest_reward_higher": _wins(reward_P2),
    }
    random = make_generator(_SEED, "variants")  # the same draws for every variant
    values_PM = np.stack(list(measures.values()), axis=1)
    drawn_RM = resample_ratios(values_PM, np.ones_like(values_PM), num_resamples, random)
    columns = dict(zip(measures, zip(values_PM.mean(0), drawn_RM.T, strict=True), strict=True))
    unseen_R = draw_unseen_rates(len(pairs), num_resamples, random)
    squared, squared_R = columns.pop("squared_difference")
    found: dict[str, Any] = {"num_rollouts": len(pairs)}
    for name, (value, resamples_R) in columns.items():
        if set(measures[name]) in ({0.0}, {1.0}):  # all agree, so that resamples show no spread
            resamples_R = apply_unseen_rates(float(value), unseen_R)
        found[name] = _estimate(float(value), resamples_R, len(pairs))
    mean, mean_R = columns["difference"]
    d, d_R = _standardize(mean, squared), _standardize(mean_R, squared_R)
    found["cohens_d_paired"] = _estimate(float(d), d_R, len(pairs))
    return found


def _wins(values_P2: Floats) -> Floats:
    """1 where the unchanged response has more, 0 where it has less, half where both are equal."""
    return np.asarray((1.0 + np.sign(values_P2[:, 0] - values_P2[:, 1])) / 2)


def _standardize(mean: Any, mean_of_squares: Any) -> Any:
    """Mean over standard deviation (Cohen's d of paired values); nan without any spread."""
    variance = np.maximum(mean_of_squares - mean**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-12, mean / np.sqrt(variance), np.nan)


def draw_counts(size: int, num_resamples: int, random: np.random.Generator) -> Floats:
    """(R, P) how often each of P rollouts is drawn, P draws with replacement."""
    drawn = random.multinomial(size, np.full(size, 1 / size), num_resamples)
    return drawn.astype(np.float64)


def _mean(values_P: Floats, counts_RP: Floats) -> Floats:
    means: Floats = counts_RP @ values_P / counts_RP.sum(1)
    return means


def cohens_d(one_G: Floats, other_W: Floats, counts_RG: Floats, counts_RW: Floats) -> Floats:
    """(R,) difference of means over the root of the two groups' mean variance."""

    def variance(values: Floats, counts: Floats) -> Floats:
        return _mean(values**2, counts) - _mean(values, counts) ** 2

    pooled = (variance(one_G, counts_RG) + variance(other_W, counts_RW)) / 2
    differences_R = _mean(one_G, counts_RG) - _mean(other_W, counts_RW)
    return divide(differences_R, np.sqrt(np.maximum(pooled, 0.0)))


def share_higher(one_G: Floats, other_W: Floats, counts_RG: Floats, counts_RW: Floats) -> Floats:
    """(R,) share of all pairs in which the first group's value is higher (area under the ROC
    curve); equal values count half."""
    wins_GW = (1.0 + np.sign(one_G[:, None] - other_W[None])) / 2
    wins_R = ((counts_RG @ wins_GW) * counts_RW).sum(1)
    shares: Floats = wins_R / (counts_RG.sum(1) * counts_RW.sum(1))
    return shares


def adjusted_difference(
    values_P: Floats, is_right_P: Floats, covariate_P: Floats, counts_RP: Floats
) -> Floats:
    """(R,) the coefficient of `is_right` in a least-squares fit beside a constant and `covariate`:
    the difference between the two groups at equal values of the covariate."""
    design_P3 = np.stack([np.ones_like(values_P), is_right_P, covariate_P], axis=1)
    products_P9 = (design_P3[:, :, None] * design_P3[:, None]).reshape(len(values_P), 9)
    left_R33 = (counts_RP @ products_P9).reshape(-1, 3, 3)
    right_R3 = counts_RP @ (design_P3 * values_P[:, None])
    fitted_R = np.full(len(counts_RP), np.nan)
    is_unique_R = np.linalg.matrix_rank(left_R33) == 3  # else a resample has a single length
    solved = np.linalg.solve(left_R33[is_unique_R], right_R3[is_unique_R, :, None])
    fitted_R[is_unique_R] = solved[:, 1, 0]
    return fitted_R


def _correlate(
    sar_P: Floats, tokens_P: Floats, name: str, num_resamples: int
) -> dict[str, float | None]:
    random = make_generator(_SEED, f"length, {name}")
    drawn_RP = random.integers(0, len(sar_P), (num_resamples, len(sar_P)))
    value = rank_correlation(sar_P[None], tokens_P[None])[0]
    resamples_R = rank_correlation(sar_P[drawn_RP], tokens_P[drawn_RP])
    return _estimate(float(value), resamples_R, len(sar_P))


def rank_correlation(one_RP: Floats, other_RP: Floats) -> Floats:
    """(R,) Spearman's correlation of each row; nan for a row of equal values."""
    from scipy.stats import rankdata

    def normalize(values_RP: Floats) -> Floats:
        ranks_RP = rankdata(values_RP, axis=1)
        ranks_RP = ranks_RP - ranks_RP.mean(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            normalized: Floats = ranks_RP / np.linalg.norm(ranks_RP, axis=1, keepdims=True)
        return normalized

    correlations: Floats = (normalize(one_RP) * normalize(other_RP)).sum(1)
    return correlations


def _estimate(value: float, resamples_R: Floats, num_rollouts: int) -> dict[str, float | None]:
    if np.isnan(value):
        return Estimate(None).to_json()
    interval = percentile_interval(value, resamples_R, num_rollouts) or (None, None)
    return Estimate(value, *interval).to_json()
