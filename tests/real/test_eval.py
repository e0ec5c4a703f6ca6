"""eval on SmolLM2: the transformers backend is greedy decoding, and two runs are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.backends.base import Request, Sampling
from eval.backends.transformers_backend import TransformersBackend
from sar.prompts import DEFAULT_SYSTEM_PROMPT

ROOT = Path(__file__).parents[2]
QUESTIONS = (
    "What is 2 + 3?",
    "Nina has 12 pens and buys 3 packs of 5 pens. How many pens does she have now, and why?",
    "Name a city in France.",
)
MAX_TOKENS = 20
NUM_PROBLEMS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def test_greedy_responses_equal_those_of_generate(smollm2: Path, smollm2_tokenizer: Any) -> None:
    """A batch of two is padded, and the third prompt comes alone."""
    import torch
    from transformers import AutoModelForCausalLM

    backend = TransformersBackend.from_pretrained(
        str(smollm2), sampling=Sampling(0.0, 1.0, MAX_TOKENS), device="cpu", batch_size=2
    )
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    requests, expected = [], {}
    for system in (DEFAULT_SYSTEM_PROMPT, ""):
        for question in QUESTIONS:
            turns = [{"role": "system", "content": system}] if system else []
            ids = smollm2_tokenizer.apply_chat_template(
                [*turns, {"role": "user", "content": question}],
                add_generation_prompt=True, return_tensors="pt", return_dict=True,
            )["input_ids"]  # fmt: skip
            prompt = backend.render_prompt(system, question)
            assert prompt == smollm2_tokenizer.decode(ids[0])
            with torch.inference_mode():
                written = model.generate(ids, do_sample=False, max_new_tokens=MAX_TOKENS)
            key = (system, question)
            expected[key] = written[0, ids.shape[1] :].tolist()
            requests.append(Request(key, system, question, prompt, None))
    got = {done.request.key: done for done in backend.generate(requests)}
    assert len(got) == len(requests)
    for key, ids in expected.items():
        assert got[key].error is None
        assert got[key].response == smollm2_tokenizer.decode(ids, skip_special_tokens=True), key
        assert got[key].num_tokens == len(ids)
        ends = ids[-1] == smollm2_tokenizer.eos_token_id
        assert got[key].finish_reason == ("stop" if ends else "length")
    assert {one.finish_reason for one in got.values()} == {"stop", "length"}


def test_two_runs_and_their_comparison(smollm2: Path, tmp_path: Path) -> None:
    """Greedy decoding against sampling."""
    runs = {"greedy": (), "sampled": ("--temperature", "1", "--seed", "3")}
    records = {}
    for name, options in runs.items():
        _run_eval(
            "run", "--model", str(smollm2), "--benchmarks", "demo", "--limit", str(NUM_PROBLEMS),
            "--max-tokens", "16", "--output", str(tmp_path / name), *options,
        )  # fmt: skip
        lines = (tmp_path / name / "demo.jsonl").read_text(encoding="utf-8").splitlines()
        records[name] = [json.loads(line) for line in lines]
        assert len(records[name]) == NUM_PROBLEMS
        assert all(record["error"] is None for record in records[name])
        assert all(0 < record["num_tokens"] <= 16 for record in records[name])
    texts = {name: {one["id"]: one["response"] for one in found} for name, found in records.items()}
    assert texts["greedy"] != texts["sampled"]

    report = tmp_path / "report"
    _run_eval("compare", *(str(tmp_path / name) for name in runs), "--output", str(report))
    compared = json.loads((report / "comparison.json").read_text(encoding="utf-8"))
    for name, found in records.items():
        metrics = compared["metrics"][name]["demo"]
        mean = sum(record["num_tokens"] for record in found) / NUM_PROBLEMS
        assert metrics["tokens"]["value"] == pytest.approx(mean)
        num_correct = sum(record["correct"] for record in found)
        assert metrics["accuracy"]["value"] == pytest.approx(num_correct / NUM_PROBLEMS)
    assert compared["pairs"][0]["benchmarks"]["demo"]["num_problems"] == NUM_PROBLEMS


def _run_eval(*arguments: str) -> None:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "eval", *arguments],
        capture_output=True, text=True, env=environ, cwd=ROOT, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
