"""GSM8K scores of the same generations here and in EleutherAI's lm-evaluation-harness.

The harness runs its own gsm8k task, on real rollouts of known verdict; only the questions come from
a file instead of the hub. Where the two differ is in what they take for the answer, and each such
difference is a case below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool

# How a response's last line is written -> what the harness's two filters make of right answers.
# "agrees": as here on all 400. "none right": it finds no answer, or another number.
AGREES, NONE_RIGHT = "agrees", "none right"
CASES = {
    # `strict-match` wants "#### " before the number.
    "A: {answer}": (NONE_RIGHT, AGREES),
    "#### {answer}": (AGREES, AGREES),
    r"The answer is \boxed{{{answer}}}.": (NONE_RIGHT, AGREES),
    "#### ${answer}": (NONE_RIGHT, AGREES),
    # It compares text, so that 18.00 is not 18.
    "#### {answer}.00": (NONE_RIGHT, NONE_RIGHT),
    # `flexible-extract` takes the last number, whatever it says; a full stop counts as a digit.
    "#### {answer}\n\nChecked 99999 times.": (AGREES, NONE_RIGHT),
    "So the answer is **{answer}**, as required...": (NONE_RIGHT, NONE_RIGHT),
}


@pytest.fixture(scope="module")
def rows(data_folder: Path) -> list[dict[str, Any]]:
    """Rollouts, with the solution of their GSM8K item as `solution`."""
    lines = (data_folder / "gsm8k.jsonl").read_text().splitlines()
    solutions = [json.loads(line)["answer"] for line in lines]
    rollouts = (data_folder / "gsm8k_rollouts.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in rollouts]
    return [{**row, "solution": solutions[row["gsm8k_test_index"]]} for row in found]


@pytest.fixture(scope="module")
def task(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The harness's gsm8k, zero-shot, over the rollouts' questions in their order."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask

    folder = tmp_path_factory.mktemp("harness")
    documents = folder / "test.jsonl"
    documents.write_text(
        "".join(
            json.dumps({"question": row["question"], "answer": row["solution"]}) + "\n"
            for row in rows
        )
    )
    settings = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    own = yaml.safe_load(settings.read_text())
    source = {"data_files": {"test": str(documents)}, "cache_dir": str(folder / "cache")}
    return ConfigurableTask(
        config={
            **own,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": source,
            "training_split": None,
            "fewshot_split": None,
            "num_fewshot": 0,
        }
    )


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(2, 10.0)
    yield pool
    pool.close()


def harness_verdicts(task: Any, responses: Sequence[str]) -> dict[str, list[bool]]:
    """By filter, whether the harness finds each response right."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate

    class Recorded(LM):  # type: ignore[misc]
        """Says what was said before."""

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [responses[request.doc_id] for request in requests]

        def loglikelihood(self, requests: Any, **_: Any) -> Any:
            raise AssertionError("gsm8k asks for text only")

        loglikelihood_rolling = loglikelihood

    found = evaluate(Recorded(), {"gsm8k": task}, log_samples=True, bootstrap_iters=0)
    verdicts: dict[str, dict[int, bool]] = {}
    for sample in found["samples"]["gsm8k"]:
        of_filter = verdicts.setdefault(sample["filter"], {})
        of_filter[sample["doc_id"]] = bool(sample["exact_match"])
    for name, of_filter in verdicts.items():
        score = float(found["results"]["gsm8k"][f"exact_match,{name}"])
        assert score == pytest.approx(sum(of_filter.values()) / len(responses))
    return {
        name: [of_filter[i] for i in range(len(responses))] for name, of_filter in verdicts.items()
    }


@pytest.mark.parametrize("last_line", CASES)
def test_gsm8k_scores_agree_but_for_what_is_listed(
    task: Any, rows: list[dict[str, Any]], graders: GraderPool, last_line: str
) -> None:
    responses = []
    for row in rows:
        reasoning, _, answer = row["response_clean"].rpartition("\nA: ")
        responses.append(f"{reasoning}\n{last_line.format(answer=answer)}")
    pending = [
        graders.submit(response, parse_label(row["answer"]))
        for response, row in zip(responses, rows, strict=True)
    ]
    ours = [p.result().correctness == 1 for p in pending]
    theirs = harness_verdicts(task, responses)
    assert ours == [row["is_correct"] for row in rows]  # 200 of 400
    expected = dict(zip(("strict-match", "flexible-extract"), CASES[last_line], strict=True))
    assert set(theirs) == set(expected)
    for name, wanted in expected.items():
        print(f"{last_line!r}, {name}: {sum(theirs[name])} of {len(rows)} right, {sum(ours)} here")
        assert theirs[name] == (ours if wanted == AGREES else [False] * len(rows)), name
