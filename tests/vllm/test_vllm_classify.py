"""`classify` through vLLM's own HTTP server: its scores are the logits of transformers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample
from sar.terms.remote.classify import Classify
from sar.terms.remote.client import RemoteError

ON_CUDA = torch.cuda.is_available()
DTYPE = "bfloat16" if ON_CUDA else "float32"
TOLERANCE = 0.5 if ON_CUDA else 1e-3
# Beside other work on two cores, vLLM takes minutes to start.
START_S = 900.0
NUM_CLASSES = 3
KEY = "sk-0123456789"
RESPONSES = ["3 + 4 = 7. The answer is 7.", "It is 8.", "No.", "Tom has pens. " * 30]
PROMPT = "Tom has 3 pens and buys 4 pens. How many pens does Tom have? "


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, bundled_model_path: Path) -> Path:
    """The bundled model with a random head of three classes."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("reward_model")
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        bundled_model_path,
        num_labels=NUM_CLASSES,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(reward_model: Path, vllm_installed: None, tmp_path_factory: Any) -> Iterator[str]:
    """A vLLM server on the reward model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    flags = [
        "--model",
        str(reward_model),
        "--runner",
        "pooling",
        "--dtype",
        DTYPE,
        "--enforce-eager",
        "--max-model-len",
        "512",
    ]
    flags += ["--served-model-name", "rm", "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--gpu-memory-utilization", "0.2"] if ON_CUDA else []
    with log.open("w") as output:
        process = subprocess.Popen(
            # `vllm serve` asks for the version of a package that vLLM for CPUs does not have.
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags],
            env={**os.environ, "VLLM_API_KEY": KEY},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):  # its engine is a process of its own
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends_at_s = time.monotonic() + START_S
    while time.monotonic() < ends_at_s and process.poll() is None:
        with suppress(OSError), opener.open(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(1)
    pytest.fail(f"vLLM did not start: {log.read_text()[-5000:]}")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RM_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def logits_BC(reward_model: Path) -> npt.NDArray[np.float32]:
    """(B, C): the logits of the classes for each response, as transformers computes them."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)
    rows = []
    for response in RESPONSES:
        ids = tokenizer(PROMPT + response, return_tensors="pt").input_ids
        with torch.inference_mode():
            rows.append(model(ids).logits[0].numpy())
    return np.stack(rows)


def make_sample(response: str) -> Sample:
    likelihood = Likelihood(0.5, 1.0, 7, over_context=False)
    return Sample(PROMPT, response, Label("7", "math"), Verdict(Reason.CORRECT), likelihood)


def test_scores_are_the_logits_of_transformers(
    url: str, logits_BC: npt.NDArray[np.float32]
) -> None:
    assert np.ptp(logits_BC, axis=0).min() > 3 * TOLERANCE, "similar scores would hide mistakes"
    samples = list(map(make_sample, RESPONSES))
    got = []
    for number in range(NUM_CLASSES):
        term = Classify(url=url, api="vllm", model="rm", class_index=number, key_env="RM_KEY")
        with ThreadPoolExecutor(len(samples)) as threads:
            got.append(list(threads.map(term.score, samples)))
    got_BC = np.array(got).T
    print(f"scores differ by up to {np.abs(got_BC - logits_BC).max():.1e}")
    np.testing.assert_allclose(got_BC, logits_BC, rtol=0, atol=TOLERANCE)


def test_what_vllm_refuses_is_an_error(url: str) -> None:
    term = Classify(url=url, api="vllm", model="rm", class_index=0, key_env="RM_KEY")
    with pytest.raises(RemoteError, match=r"status 400 from .*(length|context)"):
        term.score(make_sample("pens " * 2000))
    with pytest.raises(RemoteError, match="3 classes: class_index must name one"):
        Classify(url=url, api="vllm").score(make_sample("7"))
    with pytest.raises(RemoteError, match="status 404 from "):
        Classify(url=url, api="vllm", model="another").score(make_sample("7"))
