"""Scores and ranking, against computations with nothing but Python; ensembles and their weights."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from recipes.reward_search.comparison import compare_finalists
from recipes.reward_search.finalists import choose_finalists
from recipes.reward_search.loop import rank_candidates, read_scores
from recipes.reward_search.rewards import weigh_by_rank, weigh_evenly, write_reward
from recipes.reward_search.scores import Scores, rank, read_samples
from recipes.reward_search.screening import find_evaluation
from recipes.reward_search.settings import SearchSettings
from recipes.reward_search.state import Search


@pytest.fixture(scope="module")
def searched(standin: Any, tmp_path_factory: pytest.TempPathFactory) -> Search:
    folder = tmp_path_factory.mktemp("search") / "searched"
    settings = SearchSettings("grammar", rounds=2, per_round=5, eval_problems=80, num_seeds=3)
    found = standin.run_search(folder, standin.StandInScreener(folder, settings))
    assert isinstance(found, Search)
    return found


def read_lines(search: Search, name: str, parity: int, seed: int = 0) -> list[dict[str, Any]]:
    file = find_evaluation(search.folder, name, seed) / "demo.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if int(line["id"]) % 2 == parity]


def compute(lines: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, float]:
    """The scores, by hand."""
    accuracy = fmean(line["correct"] for line in lines)
    tokens = fmean(line["num_tokens"] for line in lines)
    answered = [line for line in lines if line["reason"] != "no_answer"]
    base_accuracy = fmean(line["correct"] for line in baseline)
    base_tokens = fmean(line["num_tokens"] for line in baseline)
    return {
        "accuracy": accuracy,
        "f1": 2 * accuracy / (1 + accuracy),
        "precision": sum(line["correct"] for line in lines) / len(answered),
        "tokens": tokens,
        "aes": (base_tokens - tokens) / base_tokens
        + 5 * (accuracy - base_accuracy) / base_accuracy,
    }


def test_scores_are_those_of_the_records(searched: Search) -> None:
    ranked = rank_candidates(searched)
    finalists = [one.name for one in choose_finalists(ranked, searched.settings)]
    names = ["correctness", "sar", *finalists, *ranked]
    baseline = read_lines(searched, "correctness", 0)
    for name in names:
        expected = compute(read_lines(searched, name, 0), baseline)
        assert vars(read_scores(searched, name)) == pytest.approx(expected)
    assert read_scores(searched, "correctness").aes == pytest.approx(0)


def test_the_ranking_is_by_aes(searched: Search) -> None:
    baseline = read_lines(searched, "correctness", 0)
    by_hand = {
        one.name: compute(read_lines(searched, one.name, 0), baseline)["aes"]
        for one in searched.candidates
    }
    assert rank_candidates(searched) == sorted(by_hand, key=lambda name: -by_hand[name])
    by_f1 = rank({name: read_scores(searched, name) for name in by_hand}, "f1")
    f1 = [read_scores(searched, name).accuracy or 0 for name in by_f1]
    assert f1 == sorted(f1, reverse=True)


def test_finalists_are_compared_on_other_problems(searched: Search) -> None:
    final = compare_finalists(searched)
    baseline = read_lines(searched, "correctness", 1)
    finalists = choose_finalists(rank_candidates(searched), searched.settings)
    names = {one.label: one.name for one in finalists} | {
        "correctness": "correctness",
        "sar": "sar",
    }
    for one in final.compared:
        by_hand = compute(read_lines(searched, names[one.label], 1), baseline)
        for name, value in by_hand.items():
            estimate = getattr(one.scores, name)
            assert estimate.value == pytest.approx(value)
            assert estimate.low <= value <= estimate.high
    assert len(final.pairs) == len(final.compared) * (len(final.compared) - 1) / 2
    for pair in final.pairs:
        first = [
            {line["id"]: line["correct"] for line in lines if line["sample"] == 0}
            for lines in (
                read_lines(searched, names[one.label], 1) for one in (pair.baseline, pair.other)
            )
        ]
        better = sum(first[1][i] and not first[0][i] for i in first[0])
        worse = sum(first[0][i] and not first[1][i] for i in first[0])
        assert pair.mcnemar.p == pytest.approx(_binomial_test(better, worse))
        expected = min(1.0, len(final.pairs) * _binomial_test(better, worse))
        assert pair.mcnemar.bonferroni == pytest.approx(expected)
    rows = {row.title: row for row in final.seeds}
    assert len(rows) == 3
    for title, name in (("correctness", "correctness"), ("correctness + 0.2 SAR", "sar")):
        lines = [read_lines(searched, name, 1, seed) for seed in (0, 1, 2)]
        assert rows[title].accuracy_of_seeds == pytest.approx(
            [fmean(line["correct"] for line in of_seed) for of_seed in lines]
        )
        assert rows[title].tokens.value == pytest.approx(
            fmean(fmean(line["num_tokens"] for line in of_seed) for of_seed in lines)
        )


def _binomial_test(one: int, two: int) -> float:
    """Two-sided, of a fair coin."""
    from math import comb

    total = one + two
    tail = sum(comb(total, i) for i in range(min(one, two) + 1)) / 2**total
    return min(1.0, 2 * tail) if total else 1.0


def make_scores(value: float | None, tokens: float = 50.0) -> Scores:
    return Scores(value, value, value, tokens, value)


def test_ties_and_undefined_scores() -> None:
    scores = {
        "undefined": make_scores(None),
        "b": make_scores(0.5),
        "a": make_scores(0.5),
        "short": make_scores(0.5, tokens=40.0),
        "best": make_scores(0.9, tokens=90.0),
    }
    assert rank(scores, "aes") == ["best", "short", "a", "b", "undefined"]
    assert rank(scores, "f1") == ["best", "short", "a", "b", "undefined"]


def test_ensembles() -> None:
    ranked = [f"r1c{place:02}" for place in range(1, 9)]
    settings = SearchSettings("grammar", top_k=3)
    best, even, by_rank, drawn = choose_finalists(ranked, settings)
    assert best.weights == {"r1c01": 1.0}
    assert even.weights == pytest.approx(dict.fromkeys(ranked[:3], 1 / 3))
    assert by_rank.weights == pytest.approx({"r1c01": 1 / 2, "r1c02": 1 / 3, "r1c03": 1 / 6})
    assert len(drawn.weights) == 3
    assert set(drawn.weights) <= set(ranked)
    assert not drawn.can_win
    assert choose_finalists(ranked, settings)[3] == drawn
    others = [
        choose_finalists(ranked, SearchSettings("grammar", seed=seed))[3] for seed in range(9)
    ]
    assert len({tuple(one.weights) for one in others}) > 3
    assert best.name == "r1c01"
    assert len({one.name for one in (best, even, by_rank, drawn)}) == 4
    assert choose_finalists(ranked[::-1], settings)[1].name != even.name
    assert [one.name for one in choose_finalists(ranked[:1], settings)] == ["r1c01"]
    assert len(choose_finalists(ranked[:3], settings)) == 3  # a draw of three would be the same
    assert choose_finalists([], settings) == []


def test_reward_files_hold_exact_weights(tmp_path: Path) -> None:
    names = [f"r1c{place:02}" for place in range(1, 8)]
    for weights in (weigh_evenly(names), weigh_by_rank(names)):
        assert sum(weights.values()) == pytest.approx(1)
        file = write_reward(tmp_path, "some", weights, "a title")
        terms = tomllib.loads(file.read_text())["terms"]
        assert {one["name"]: one["weight"] for one in terms} == weights
        assert [one["term"] for one in terms] == [f"candidate:{name}.py" for name in weights]


def test_an_evaluation_with_errors_is_refused(searched: Search, tmp_path: Path) -> None:
    line = read_lines(searched, "sar", 0)[0]
    (tmp_path / "demo.jsonl").write_text(json.dumps({**line, "error": "gone"}) + "\n")
    with pytest.raises(ValueError, match="1 errors"):
        read_samples(tmp_path, "ranking")
    (tmp_path / "demo.jsonl").write_text("")
    with pytest.raises(ValueError, match="no problem for comparison"):
        read_samples(tmp_path, "comparison")


def test_problems_are_split_whatever_their_ids(searched: Search, tmp_path: Path) -> None:
    """Every other problem of each benchmark, in the order of the numbers in their ids."""
    line = read_lines(searched, "sar", 0)[0]
    ids = {"aime": ["2001-I-9", "2001-I-10", "1999-II-3"], "gsm8k": ["0", "17", "5", "10", "9"]}
    for name, of_name in ids.items():
        lines = [{**line, "id": one, "sample": n} for one in of_name for n in (0, 1)]
        text = "".join(json.dumps(one) + "\n" for one in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    ranking = read_samples(tmp_path, "ranking")
    comparison = read_samples(tmp_path, "comparison", first_only=True)
    assert set(ranking.ids) == {
        "aime/1999-II-3", "aime/2001-I-10", "gsm8k/0", "gsm8k/9", "gsm8k/17"
    }  # fmt: skip
    assert set(comparison.ids) == {"aime/2001-I-9", "gsm8k/5", "gsm8k/10"}
    assert (len(ranking.correct_N), len(comparison.correct_N)) == (10, 3)
