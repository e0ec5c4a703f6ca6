"""Shows rewards for a dozen rollouts: python -m reward_server.demo

Starts a server with the bundled model, sends rollouts as OpenRLHF does, prints their rewards, and
stops the server.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reward_server.launch import ServerDidNotStart, ServerProcess
from sar.models import BUNDLED_MODEL
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.reward import DEFAULT_SAR_WEIGHT

_SEED = 2026
_NUM_PROBLEMS = 3
_SHOWN_CHARS = 58


@dataclass(frozen=True)
class _Rollout:
    kind: str
    prompt: str
    response: str
    label: str


def main() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    rollouts = [
        rollout
        for problem in islice(generate(_SEED, held_out=True), _NUM_PROBLEMS)
        for rollout in _make_rollouts(problem, tokenizer)
    ]
    payloads = [_build_payload(rollout, tokenizer) for rollout in rollouts]
    with _run_server() as url, ThreadPoolExecutor(len(rollouts)) as senders:
        _print_table(rollouts, list(senders.map(partial(_post, url), payloads)))
    _print_next_steps()


def _make_rollouts(problem: ArithmeticProblem, tokenizer: Any) -> list[_Rollout]:
    """One rollout of each kind."""
    prompt = render_prompt(tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
    kinds = {
        "concise": problem.concise,
        "redundant": problem.padded,
        "partly right": problem.wrong_end,
        "wrong": problem.unrelated,
    }
    return [
        _Rollout(kind, prompt, response + tokenizer.eos_token, str(problem.answer))
        for kind, response in kinds.items()
    ]


def _build_payload(rollout: _Rollout, tokenizer: Any) -> dict[str, list[str]]:
    """The JSON that OpenRLHF posts for one rollout. It decodes the query from token ids."""
    prompt_ids = tokenizer.encode(rollout.prompt, add_special_tokens=False)
    response_ids = tokenizer.encode(rollout.response, add_special_tokens=False)
    query = tokenizer.decode(prompt_ids + response_ids, skip_special_tokens=False)
    return {"query": [query], "prompts": [rollout.prompt], "labels": [rollout.label]}


@contextmanager
def _run_server() -> Iterator[str]:
    """Runs a server on a free port. Gives the URL to post to; stops the server on leaving."""
    with TemporaryDirectory() as folder:
        try:
            with ServerProcess(log=Path(folder) / "server.log") as server:
                server.wait_until_ready()
                yield f"{server.url}/get_reward"
        except ServerDidNotStart as error:
            raise SystemExit(str(error)) from error


def _post(url: str, payload: dict[str, list[str]]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  the URL is our own server's
        url, json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=180) as response:  # noqa: S310
        body: dict[str, Any] = json.load(response)
    return body


def _print_table(rollouts: list[_Rollout], answers: list[dict[str, Any]]) -> None:
    columns = f"{'ppl_qa':>8} {'ppl_a':>8} {'SAR':>6} {'reward':>7}"
    for index, (rollout, answer) in enumerate(zip(rollouts, answers, strict=True)):
        logs = {name: values[0] for name, values in answer["extra_logs"].items()}
        if index % (len(rollouts) // _NUM_PROBLEMS) == 0:
            question = rollout.prompt.split("user\n")[-1].split("<|im_end|>")[0]
            print(f"\n{question}  [label: {rollout.label}]")
            print(f"  {'kind':<13}{'response':<{_SHOWN_CHARS}} correct {columns}")
        shown = rollout.response.removesuffix("<|im_end|>")
        if len(shown) > _SHOWN_CHARS - 2:
            half = (_SHOWN_CHARS - 7) // 2
            shown = f"{shown[:half]} ... {shown[-half:]}"
        print(
            f"  {rollout.kind:<13}{shown:<{_SHOWN_CHARS}} {logs['correctness']:>7.0f} "
            f"{logs['ppl_qa']:>8.2f} {logs['ppl_a']:>8.2f} {logs['sar']:>6.2f} "
            f"{answer['rewards'][0]:>7.2f}"
        )


def _print_next_steps() -> None:
    print(
        f"""
reward = correctness + {DEFAULT_SAR_WEIGHT} x SAR. What next:
  make serve MODEL=PATH_OR_ID                        serve your policy's model on port 5000
  --reward.remote_url http://127.0.0.1:5000/get_reward      OpenRLHF's flag
  curl -s http://127.0.0.1:5000/get_reward -d \\
    '{{"query": ["Q: 2+3?\\nA: 5"], "prompts": ["Q: 2+3?\\nA:"], "labels": ["5"]}}'"""
    )


if __name__ == "__main__":
    main()
