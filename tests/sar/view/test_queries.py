"""Charts, points and tables, against the same numbers computed in plain Python."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.view import series
from sar.view.index import GROUP_PAUSE_S
from sar.view.live import LiveIndex
from sar.view.log_index import LogIndex

METRICS: dict[str, Callable[[Decision], float]] = {
    "reward": lambda d: d.reward,
    "correctness": lambda d: d.correctness,
    "sar": lambda d: d.sar,
    "num_tokens": lambda d: d.num_response_tokens,
    "nll_qa": lambda d: d.nll_qa,
    "no_answer": lambda d: d.reason is Reason.NO_ANSWER,
    "grader_failed": lambda d: d.reason in (Reason.TIMEOUT, Reason.CRASHED),
    "over_context": lambda d: d.over_context,
}

numbers = st.floats(-3, 3, allow_nan=False).map(lambda value: round(value, 6))
rollouts = st.lists(
    st.fixed_dictionaries(
        {
            "seconds": st.floats(0, 3000).map(lambda value: round(value, 3)),
            "reason": st.sampled_from(Reason),
            "mode": st.sampled_from(["train", "train", "eval"]),
            "reward": st.sampled_from([0.0, 1.0, 1.2]) | numbers,
            "sar": numbers,
            "nll_qa": numbers,
            "num_response_tokens": st.integers(0, 1000),
            "over_context": st.booleans(),
            "prompt": st.sampled_from(["a", "b", "c"]),
            "policy_version": st.sampled_from([0, 1, 2, 11, None]),
            "group": st.sampled_from(["", "", "g1", "g2"]),
            "terms": st.dictionaries(st.sampled_from(["x", "y"]), numbers),
        }
    ),
    max_size=60,
)


def seconds(decision: Decision) -> float:
    return datetime.fromisoformat(decision.time).timestamp()


def make_live(decisions: list[Decision]) -> LiveIndex:
    """An index that gets the decisions some at a time, as a server does."""
    live = LiveIndex(10_000)
    for start in range(0, len(decisions), 7):
        live.add(decisions[start : start + 7])
    return live


def group_keys(decisions: list[Decision]) -> list[tuple[Any, ...]]:
    """The group of each decision, by the rules of docs/dashboard.md."""
    keys: list[tuple[Any, ...]] = []
    latest: dict[tuple[Any, ...], tuple[int, float]] = {}
    for decision in decisions:
        alone = (decision.prompt, decision.policy_version, decision.mode)
        key: tuple[Any, ...] = (decision.group,) if decision.group else alone
        at = seconds(decision)
        count, before = latest.get(key, (0, at))
        if not decision.group and at - before > GROUP_PAUSE_S:
            count, before = count + 1, at
        latest[key] = (count, max(before, at))
        keys.append((*key, count))
    return keys


def bucket_of(by: str, decision: Decision, number: int, width: float) -> Any:
    if by == "version":
        return decision.policy_version
    return math.floor((number if by == "rollouts" else seconds(decision)) / width)


@pytest.mark.parametrize("by", series.BY)
@settings(max_examples=40)
@given(given_rollouts=rollouts, mode=st.sampled_from(["train", "eval"]), num=st.integers(2, 30))
def test_series_are_means_over_buckets(
    by: str,
    given_rollouts: list[dict[str, Any]],
    mode: str,
    num: int,
    rollout: Any,
    ask: Any,
) -> None:
    decisions = [rollout(**fields) for fields in given_rollouts]
    keys = group_keys(decisions)
    answer = ask(make_live(decisions), "series", by=by, mode=mode, buckets=num)
    chosen = [(n, d) for n, d in enumerate(decisions, 1) if d.mode == mode]
    if not chosen:
        assert answer["x"] == []
        return
    buckets: dict[Any, list[tuple[int, Decision]]] = defaultdict(list)
    for number, decision in chosen:
        buckets[bucket_of(by, decision, number, answer["width"])].append((number, decision))
    if by == "version":
        has_all_numbers = None not in buckets
        order = sorted(buckets) if has_all_numbers else None
        if order and len(order) <= num:
            assert answer["x"] == order
        if len(buckets) > num:
            assert sum(answer["num"]) == len(chosen)
            return
        order = order or sorted(buckets, key=[d.policy_version for d in decisions].index)
    else:
        order = sorted(buckets)
        assert len(order) <= num + 1
    expected = [buckets[key] for key in order]
    assert answer["num"] == [len(rows) for rows in expected]
    assert answer["first"] == [min(n for n, _ in rows) for rows in expected]
    assert answer["last"] == [max(n for n, _ in rows) for rows in expected]
    for name, read in METRICS.items():
        means = [np.mean([read(d) for _, d in rows]) for rows in expected]
        np.testing.assert_allclose(answer["means"][name], means, atol=1e-9)
    for name, shown in answer["terms"].items():
        for value, rows in zip(shown, expected, strict=True):
            terms = [d.terms[name] for _, d in rows if name in d.terms and mode == "train"]
            assert value == (pytest.approx(np.mean(terms), abs=1e-9) if terms else None)
    check_groups(answer, by, decisions, keys, mode, order)


def check_groups(
    answer: Any,
    by: str,
    decisions: list[Decision],
    keys: list[tuple[Any, ...]],
    mode: str,
    order: list[Any],
) -> None:
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, key in enumerate(keys, 1):
        groups[key].append(number)
    counts: dict[Any, list[int]] = {key: [0, 0, 0] for key in order}
    for members in groups.values():
        first = decisions[members[0] - 1]
        if len(members) < 2 or first.mode != mode:
            continue
        rewards = [decisions[n - 1].reward for n in members]
        verdicts = {decisions[n - 1].correctness for n in members}
        count = counts[bucket_of(by, first, members[0], answer["width"])]
        count[0] += 1
        count[1] += max(rewards) - min(rewards) <= 1e-9
        count[2] += len(verdicts) == 1
    assert answer["num_groups"] == [counts[key][0] for key in order]
    for position, name in ((1, "equal_reward"), (2, "equal_correctness")):
        expected = [
            counts[key][position] / counts[key][0] if counts[key][0] else None for key in order
        ]
        assert answer["means"][name] == expected


@settings(max_examples=40)
@given(
    given_rollouts=rollouts,
    verdict=st.sampled_from(["all", "right", "wrong", *Reason]),
    window=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    limit=st.integers(1, 20),
)
def test_tables_and_points_are_of_the_chosen_rollouts(
    given_rollouts: list[dict[str, Any]],
    verdict: str,
    window: tuple[int, int],
    limit: int,
    rollout: Any,
    ask: Any,
) -> None:
    decisions = [rollout(**fields) for fields in given_rollouts]
    first, last = window
    reasons = {"all": set(Reason), "right": {Reason.CORRECT}, "wrong": set(Reason) - {"correct"}}
    allowed = reasons.get(verdict, {verdict})
    chosen = {
        n: d
        for n, d in enumerate(decisions, 1)
        if d.mode == "train" and d.reason in allowed and first <= n <= last
    }
    order = {
        "latest": lambda n: -n,
        "best": lambda n: (-chosen[n].reward, -n),
        "worst": lambda n: (chosen[n].reward, -n),
    }
    right = [n for n in chosen if chosen[n].reason is Reason.CORRECT]
    wrong = [n for n in chosen if chosen[n].reason is not Reason.CORRECT]
    asked = {"first": first, "last": last, "verdict": verdict, "limit": limit}
    live = make_live(decisions)
    for kind, key in order.items():
        rows = ask(live, "table", kind=kind, **asked)["rows"]
        assert [row["id"] for row in rows] == sorted(chosen, key=key)[:limit]
        assert all(row["reward"] == chosen[row["id"]].reward for row in rows)
    rows = ask(live, "table", kind="surprising", **asked)["rows"]
    found = [row["id"] for row in rows]
    assert len(found) == min(limit, len(chosen))
    shown = [n for n in found if n in right]
    assert shown == sorted(right, key=lambda n: (chosen[n].sar, -n))[: len(shown)]
    shown = [n for n in found if n in wrong]
    assert shown == sorted(wrong, key=lambda n: (-chosen[n].sar, -n))[: len(shown)]
    sample = ask(live, "points", **asked)
    assert (sample["num_right"], sample["num_wrong"]) == (len(right), len(wrong))
    assert len(sample["points"]) == min(limit, len(chosen))
    assert len({point[0] for point in sample["points"]}) == len(sample["points"])
    for number, tokens, sar, correctness, reward in sample["points"]:
        one = chosen[number]
        known = (one.num_response_tokens, one.sar, one.correctness, one.reward)
        assert (tokens, sar, correctness, reward) == known


def test_points_show_rare_wrong_rollouts_and_are_spread_evenly(rollout: Any, ask: Any) -> None:
    live = LiveIndex(10_000)
    rare = {400, 1200, 2900}
    live.add(
        [rollout(n, reason=Reason.WRONG if n in rare else Reason.CORRECT) for n in range(1, 4001)]
    )
    points = ask(live, "points", limit=400)["points"]
    assert rare <= {point[0] for point in points}
    right = sorted(point[0] for point in points if point[3] == 1)
    counts, _ = np.histogram(right, bins=8, range=(1, 4001))
    assert counts.min() > 0.7 * counts.mean()


def test_siblings_are_of_one_prompt_and_version_without_a_pause(rollout: Any, ask: Any) -> None:
    live = LiveIndex(100)
    same = {"prompt": "P", "policy_version": 1}
    live.add([rollout(0, **same), rollout(1, prompt="Q", policy_version=1), rollout(5, **same)])
    live.add([rollout(7, prompt="P", policy_version=2), rollout(9, **same)])
    live.add([rollout(10 + GROUP_PAUSE_S, **same)])
    live.add([rollout(20, group="g", prompt="P"), rollout(5000, group="g", prompt="other")])
    siblings = [
        [one["id"] for one in ask(live, "rollout", id=number)["siblings"]] for number in range(1, 9)
    ]
    assert siblings == [[1, 3, 5], [2], [1, 3, 5], [4], [1, 3, 5], [6], [7, 8], [7, 8]]


@pytest.mark.parametrize(
    "asked",
    [
        ("points", {"limit": 300, "first": 20, "last": 400}),
        ("points", {"limit": 300}),
        ("table", {"kind": "best", "verdict": "wrong"}),
        ("table", {"kind": "surprising", "first": 100}),
        ("rollout", {"id": 77}),
        ("search", {"text": "RESPONSE 12"}),
    ],
)
def test_a_log_and_a_server_give_the_same_answers(
    asked: tuple[str, dict[str, Any]], make_run: Any, write_log: Any, ask: Any, tmp_path: Path
) -> None:
    decisions = make_run(500)
    write_log(tmp_path / "a.jsonl", decisions)
    live = LiveIndex(10_000)
    live.add(decisions)
    with closing(LogIndex(tmp_path)) as log:
        log.update()
        assert ask(log, asked[0], **asked[1]) == ask(live, asked[0], **asked[1])
        for by in series.BY:
            shown, expected = (ask(source, "series", by=by) for source in (log, live))
            for part in ("means", "terms"):
                for name, values in expected.pop(part).items():
                    assert shown[part][name] == pytest.approx(values, abs=1e-8)
                del shown[part]
            assert shown == expected


@pytest.mark.parametrize("by", series.BY)
def test_a_long_log_has_the_same_charts_from_cells(
    by: str,
    make_run: Any,
    write_log: Any,
    ask: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cells are sums of what a chart of few rollouts reads itself."""
    write_log(tmp_path / "a.jsonl", make_run(3000))
    monkeypatch.setattr("sar.view.index._MAX_CELLS", 20)
    monkeypatch.setattr("sar.view.index._COUNT_EVERY", 1)
    with closing(LogIndex(tmp_path)) as log:
        log.update()
        read = ask(log, "series", by=by, buckets=8)
        monkeypatch.setattr(series, "_MAX_READ_ROLLOUTS", 100)
        cells = ask(log, "series", by=by, buckets=8)
    assert 3 < len(read["x"]) <= 9
    assert cells["x"] == read["x"]
    for part in ("means", "terms"):
        for name, values in read[part].items():
            assert cells[part][name] == pytest.approx(values, abs=1e-9), name
    for name in ("num", "num_groups", "first", "last", "start", "end", "bands", "width"):
        assert cells[name] == read[name], name


@pytest.mark.parametrize("versions", [["a", "b"], ["a", 3], [None, 1]])
def test_versions_that_are_no_numbers_are_labels(
    versions: list[Any], rollout: Any, ask: Any
) -> None:
    live = LiveIndex(100)
    live.add([rollout(n, policy_version=version) for n, version in enumerate(versions)])
    answer = ask(live, "series", by="version")
    assert answer["labels"] == ["" if v is None else str(v) for v in versions]
    assert [band["version"] for band in answer["bands"]] == answer["labels"]


@pytest.mark.parametrize(
    ("terms", "pays"),
    [
        (lambda _: {"correctness": 1.0, "sar": 0.0}, True),
        (lambda sar: {"correctness": 1.0, "mine": sar}, True),  # `name = "mine"`
        (lambda sar: {"correctness": 1.0, "mine": sar if sar > 0.3 else 0.0}, True),  # `only_if`
        (lambda sar: {"correctness": 1.0, "mine": 1 - sar}, False),
        (lambda _: {"correctness": 1.0, "overlong": 0.0}, False),
    ],
)
def test_sar_is_paid_where_a_term_is_sar(
    terms: Callable[[float], dict[str, float]], pays: bool, rollout: Any, ask: Any
) -> None:
    live = LiveIndex(100)
    assert ask(live, "status")["pays_sar"] is None
    values = [n / 10 for n in range(8)]
    live.add([rollout(n, sar=sar, sar_weight=0, terms=terms(sar)) for n, sar in enumerate(values)])
    live.add([rollout(9, mode="eval", terms={"correctness": 0.0})])
    assert ask(live, "status")["pays_sar"] is pays
