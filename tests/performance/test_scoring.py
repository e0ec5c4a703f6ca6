"""The benchmarks of scoring: what they compare is right, and they run from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from performance import __main__ as command
from performance import growth, report, scoring, workload
from performance.naive import NaiveScorer, compute_padding_share
from performance.report import Measurement
from performance.workload import ModelShape, SequencePair
from sar.scoring import TokenSequence

TINY = ModelShape(vocabulary=300, hidden=64, intermediate=96, num_layers=2, head_dim=32)


@pytest.fixture(scope="module")
def tiny_model() -> Any:
    return workload.build_model(TINY)


def test_the_naive_loop_gives_what_each_sequence_gives_alone(tiny_model: Any) -> None:
    rollouts = workload.draw_rollouts(7, TINY.vocabulary, median_response_tokens=20)
    sequences = workload.list_sequences(rollouts)
    results = NaiveScorer(tiny_model, batch_size=4).response_logprobs(sequences)
    assert len(results) == len(sequences)
    for sequence, logprobs_T in zip(sequences, results, strict=True):
        ids = torch.tensor([sequence.context_ids + sequence.response_ids])
        with torch.no_grad():
            logits = tiny_model(ids).logits[0].double()
        expected = [
            float(logits[at - 1, ids[0, at]] - logits[at - 1].logsumexp(0))
            for at in range(len(sequence.context_ids), ids.shape[1])
        ]
        np.testing.assert_allclose(logprobs_T, expected, atol=1e-4)


def test_padding_share_counts_what_is_no_token() -> None:
    def sequence(num_tokens: int) -> TokenSequence:
        return TokenSequence([1], [1] * (num_tokens - 1))

    assert compute_padding_share([[sequence(10)] * 8]) == 0
    assert compute_padding_share([[sequence(10), sequence(5)], [sequence(4)]]) == pytest.approx(
        5 / 24
    )


def test_the_rollouts_are_groups_in_the_order_they_end() -> None:
    rollouts = workload.draw_rollouts(60, 32_000)
    again = workload.draw_rollouts(60, 32_000)
    assert rollouts == again
    groups: dict[tuple[int, ...], list[SequencePair]] = {}
    for rollout in rollouts:
        assert rollout.with_question.response_ids == rollout.without_question.response_ids
        groups.setdefault(tuple(rollout.with_question.context_ids), []).append(rollout)
    assert [len(group) for group in groups.values()] == [6] * 10
    assert all(80 <= len(prompt) <= 200 for prompt in groups)
    assert {len(r.without_question.context_ids) for r in rollouts} == {40}
    lengths = [len(r.with_question.response_ids) for r in rollouts]
    assert lengths != sorted(lengths)
    assert 150 < np.median(lengths) < 270
    assert 0.35 < np.std(np.log(lengths)) < 0.65


def test_a_short_rollout_overtakes_a_long_one() -> None:
    assert workload._order_by_end([50, 10, 30]) == [1, 2, 0]
    # The thirteenth starts when the first of twelve has ended.
    assert workload._order_by_end([5, *[100] * 11, 10]) == [0, 12, *range(1, 12)]


def test_batches_keep_the_budget_and_the_order() -> None:
    rollouts = workload.draw_rollouts(30, 32_000)
    batches = workload.split_into_batches(rollouts, 4000)
    assert [s for batch in batches for s in batch] == workload.list_sequences(rollouts)
    assert len(batches) > 2
    assert all(workload.count_tokens(batch) <= 4000 for batch in batches)


def test_distinct_contexts_differ_and_keep_their_lengths() -> None:
    rollouts = workload.draw_rollouts(12, 32_000)
    distinct = workload.make_contexts_distinct(rollouts, 32_000)
    sequences = workload.list_sequences(distinct)
    assert len({tuple(s.context_ids) for s in sequences}) == 24
    assert [len(s) for s in sequences] == [len(s) for s in workload.list_sequences(rollouts)]


def test_different_log_probabilities_are_not_compared_in_speed() -> None:
    one = workload.Scored(1.0, [np.zeros(3, np.float32), np.ones(2, np.float32)])
    other = workload.Scored(1.0, [np.zeros(3, np.float32), np.full(2, 1.001, np.float32)])
    scoring._check_same(one, one)
    with pytest.raises(RuntimeError, match=r"differ by 0\.001"):
        scoring._check_same(one, other)


def test_an_error_in_a_process_is_raised_by_who_asks() -> None:
    with workload.Worker(dict, environment={}) as worker:
        assert worker.ask("get", "a", 3) == 3
        with pytest.raises(RuntimeError, match="KeyError"):
            worker.ask("pop", "a")


def test_the_exponent_of_a_power_law() -> None:
    assert growth._fit_exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


FIGURES = [
    Measurement("speed", [3.0, 5.0, 4.0], "x", at_least=3.5),
    Measurement("memory", [2.0], "x", at_most=1.3, details={"bytes": [1, 2]}),
    Measurement("gain", [1.5], "x"),
]


def test_the_table_shows_medians_and_bounds() -> None:
    assert report.format_table(FIGURES).splitlines()[2:] == [
        "| speed | 4 x | 3 to 5 | >= 3.5 | yes |",
        "| memory | 2 x | 2 to 2 | <= 1.3 | NO |",
        "| gain | 1.5 x | 1.5 to 1.5 |  |  |",
    ]


def test_what_is_saved_can_be_read(tmp_path: Path) -> None:
    report.save(tmp_path / "new" / "x.json", FIGURES, quick=True)
    saved = json.loads((tmp_path / "new" / "x.json").read_text())
    assert saved["quick"] is True
    assert saved["machine"]["torch"] == torch.__version__
    assert [m["value"] for m in saved["measurements"]] == [4.0, 2.0, 1.5]
    assert [m["reached"] for m in saved["measurements"]] == [True, False, True]
    assert saved["measurements"][1]["details"] == {"bytes": [1, 2]}


@pytest.mark.parametrize(("figures", "code"), [(FIGURES, 1), ([FIGURES[0], FIGURES[2]], 0)])
def test_a_missed_bound_fails(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    figures: list[Measurement],
    code: int,
) -> None:
    monkeypatch.setattr(scoring, "measure", lambda quick: figures)
    output = tmp_path / "x.json"
    assert command.main(["--only", "scoring", "--output", str(output)]) == code
    assert report.format_table(figures) in capsys.readouterr().out
    assert len(json.loads(output.read_text())["measurements"]) == len(figures)


def test_a_quick_run_enforces_nothing_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scoring, "measure", lambda quick: FIGURES)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    assert command.main(["--quick", "--only", "scoring"]) == 0
    assert not (tmp_path / "results").exists()


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "scoring,flying"])
    assert "no part 'flying'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run_from_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "quick.json"
    assert command.main(["--quick", "--only", "scoring,growth", "--output", str(output)]) == 0
    saved = json.loads(output.read_text())
    assert saved["parts"] == ["scoring", "growth"]
    figures = {m["name"]: m for m in saved["measurements"]}
    assert len(figures) == 6
    assert all(m["value"] > 0 and m["at_least"] is m["at_most"] is None for m in figures.values())
    speed = figures["scorer against the naive loop"]["details"]
    assert {"tokens_both_passes", "scorer_tokens_per_s", "naive_tokens_per_s"} <= set(speed)
    grown = figures["growth with the number of rollouts, exponent"]["details"]
    assert grown["sizes"] == [6, 12, 24]
    assert [len(samples) for samples in grown["times_s"]] == [2, 2, 2]
    picture = (tmp_path / "growth.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width_and_height = [int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)]
    assert width_and_height == [1200, 450]
