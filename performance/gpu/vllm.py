"""Measures vLLM's prompt log-probabilities on the same rollouts, in a separate process.

vLLM takes nearly all GPU memory and releases it only when its process ends. That process is
`python -m performance.gpu.vllm FOLDER`. The other functions write the folder and read the results.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sar.models
from performance.gpu.models import draw_sequences, make_model
from performance.gpu.parts import MAX_DIFFERENCE, Results
from performance.gpu.timing import Bench, NotMeasured, free_memory, time_task
from performance.report import Measurement
from sar.scoring import TokenSequence
from sar.scoring.transformers_scorer import TransformersScorer
from sar.scoring.vllm_scorer import VllmScorer

_NAME = "vLLM's prompt log-probabilities"
_ROOT = Path(__file__).parents[2]
# Share of the time limit for scoring; starting vLLM takes most of the rest.
_SHARE = 0.1


def measure_vllm(bench: Bench) -> Results:
    """Speed of vLLM and of the scorer on the same model and rollouts.

    The scorer runs first, then vLLM: they cannot take turns, because each needs the GPU's memory.
    """
    if importlib.util.find_spec("vllm") is None:
        yield NotMeasured(_NAME, "not installed: pip install -c constraints.txt -e '.[vllm]'")
        return
    if not bench.is_cuda:
        yield NotMeasured(_NAME, "needs CUDA")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sequences, times, expected = _run_scorer(bench, folder)
        free_memory(bench.device)
        _run(folder)
        results = np.load(folder / "results.npz")
    num_tokens = sum(map(len, sequences))
    about = {"rollouts": len(sequences) // 2, "seconds": results["seconds"].tolist()}
    yield Measurement(
        f"{bench.small.name}: {_NAME}, tokens scored per second",
        [num_tokens / t for t in results["seconds"].tolist()],
        "tokens/s",
        details=about,
    )
    yield Measurement(
        f"{bench.small.name}: the scorer on the same, tokens scored per second",
        [num_tokens / t for t in times],
        "tokens/s",
    )
    off = np.abs(results["logprobs"] - expected)
    yield Measurement(
        f"{bench.small.name}: mean difference between vLLM's numbers and the scorer's",
        [float(off.mean())],
        "nats",
        at_most=MAX_DIFFERENCE[bench.dtype],
        details={"largest": float(off.max())},
    )


def _run_scorer(
    bench: Bench, folder: Path
) -> tuple[list[TokenSequence], list[float], np.ndarray[Any, np.dtype[np.float32]]]:
    """Saves model, tokenizer and rollouts in the folder, and scores the rollouts.

    Returns:
        The sequences, the seconds of each round, and all log-probabilities in one array.
    """
    shape = bench.small
    model = make_model(shape, bench.device, bench.dtype)
    save_for_vllm(model, folder)
    scoring = TransformersScorer(model, bench.max_batch_tokens)
    probe = draw_sequences(2, shape.vocabulary, bench.lengths)
    scoring.response_logprobs(probe)
    per_group_s = time_task(bench.device, lambda: scoring.response_logprobs(probe)) / 2
    # Assumes that vLLM takes three times as long as the scorer.
    num_groups = bench.fit_groups(4 * per_group_s, _SHARE)
    sequences = draw_sequences(num_groups, shape.vocabulary, bench.lengths)
    expected = np.concatenate(scoring.response_logprobs(sequences))
    times = [
        time_task(bench.device, lambda: scoring.response_logprobs(sequences))
        for _ in range(bench.rounds)
    ]
    task = {
        "rounds": bench.rounds,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "max_batch_tokens": bench.max_batch_tokens,
        "sequences": [[s.context_ids, s.response_ids] for s in sequences],
    }
    (folder / "task.json").write_text(json.dumps(task))
    return sequences, times, expected


def save_for_vllm(model: Any, folder: Path) -> None:
    """Saves a checkpoint. It gets the demo's tokenizer, because vLLM needs one."""
    model.save_pretrained(folder)
    for path in (Path(sar.models.__file__).parent / "demo").glob("*token*"):
        shutil.copy(path, folder)


def _run(folder: Path) -> None:
    """Runs vLLM on the folder. Raises RuntimeError with vLLM's first error and last line."""
    log = folder / "log.txt"
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "performance.gpu.vllm", str(folder)],
            cwd=_ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait()
        finally:
            # Ends vLLM's own processes too, also after a TimeUp.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        raise RuntimeError(f"vLLM ended with {code}: {' ... '.join([*errors[:1], *lines[-1:]])}")


def main(folder: Path) -> None:
    """Scores the rollouts with vLLM; this runs in the separate process."""
    task = json.loads((folder / "task.json").read_text())
    sequences = [TokenSequence(*ids) for ids in task["sequences"]]
    scoring = VllmScorer.from_pretrained(
        str(folder), dtype=task["dtype"], max_batch_tokens=task["max_batch_tokens"]
    )
    logprobs = np.concatenate(scoring.response_logprobs(sequences))
    cpu = torch.device("cpu")  # results are in host memory: no device to wait for
    times = [
        time_task(cpu, lambda: scoring.response_logprobs(sequences)) for _ in range(task["rounds"])
    ]
    np.savez(folder / "results.npz", seconds=np.array(times), logprobs=logprobs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
