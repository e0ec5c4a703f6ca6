"""`python -m sar explain`: pages from texts and from a reward log, and the user's mistakes."""

from __future__ import annotations

import io
import json
import re
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sar.__main__ import main
from sar.decision import Decision
from sar.explain import model as model_module
from sar.explain.model import ModelExplainer
from sar.models import BUNDLED_MODEL
from sar.prompts import DEFAULT_SYSTEM_PROMPT

QUESTION = "Tom has 3 apples. He buys 4 more. How many apples does he have now?"
RESPONSE = "Tom has 3 + 4 = 7 apples. Answer: 7<|im_end|>"
MODEL = str(BUNDLED_MODEL)

Explain = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def explainer() -> ModelExplainer:
    return ModelExplainer.from_pretrained(MODEL, system_prompt=DEFAULT_SYSTEM_PROMPT)


@pytest.fixture
def loaded_with(
    explainer: ModelExplainer, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, dict[str, Any]]]:
    """Lets the command use the one loaded model; notes what it asked for."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(path: str, **options: Any) -> ModelExplainer:
        asked.append((path, options))
        return explainer

    monkeypatch.setattr(model_module.ModelExplainer, "from_pretrained", load)
    return asked


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Explain:
    """Runs the command, with `page.html` as its output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        output = ["--output", str(tmp_path / "page.html")]
        try:
            status = main(["explain", *map(str, arguments), *output])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def read_tokens(page: str) -> list[list[list[float]]]:
    """Of each response, its pieces: number of tokens, nll_qa and nll_a."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [json.loads(one) for one in found]


def read_parts(page: str) -> dict[str, str]:
    return dict(re.findall(r'<th scope="row">(.*?)</th><td.*?><bdi>(.*?)</bdi>', page))


def test_a_page_from_texts(explain: Explain, tmp_path: Path) -> None:
    """With a model that the command loads itself."""
    arguments = ["--model", MODEL, "--question", QUESTION, "--response", RESPONSE]
    status, out, _ = explain(*arguments, "--label", "7", "--grader-workers", "1")
    assert (status, out) == (0, f"1 responses explained: {tmp_path}/page.html\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    parts = read_parts(page)
    assert (parts["correctness"], parts["answer"], parts["label"]) == ("1 (correct)", "7", "7")
    assert parts["reward is"] == "correctness + 0.2 sar"
    assert float(parts["reward"]) == pytest.approx(1 + 0.2 * float(parts["SAR"]), abs=1e-4)
    (pieces,) = read_tokens(page)
    num_tokens, nll_qa, nll_a = np.sum(pieces, axis=0)
    assert np.exp(nll_qa / num_tokens) == pytest.approx(float(parts["ppl_qa"]), abs=1e-3)
    assert np.exp(nll_a / num_tokens) == pytest.approx(float(parts["ppl_a"]), abs=1e-3)
    # The model's card states it, without the end of the response.
    assert 0.3 < float(parts["SAR"]) < 0.6


def test_prompt_and_question_give_the_same(
    explain: Explain, explainer: ModelExplainer, loaded_with: list[Any], tmp_path: Path
) -> None:
    pages = []
    prompt = explainer.render_prompt(QUESTION, DEFAULT_SYSTEM_PROMPT)
    for given in (["--question", QUESTION], ["--prompt", prompt]):
        assert explain("--model", MODEL, *given, "--response", RESPONSE)[0] == 0
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert "Not graded" in pages[0]
    assert "reward" not in read_parts(pages[0])
    assert "template or system prompt is not" not in pages[0]
    explain("--model", MODEL, "--prompt", QUESTION, "--response", RESPONSE)
    assert "template or system prompt is not" in (tmp_path / "page.html").read_text()


def test_several_responses_and_a_reward_file(
    explain: Explain, loaded_with: list[Any], tmp_path: Path
) -> None:
    reward = tmp_path / "reward.toml"
    reward.write_text(
        'group_size = 2\n[[terms]]\nterm = "correctness"\n'
        '[[terms]]\nterm = "group_length"\nweight = 0.5\n'
    )
    arguments = ["--model", MODEL, "--question", QUESTION, "--label", "7", "--reward", reward]
    responses = ["--response", RESPONSE, "--response", "I think it is, well, 7. Answer: 7"]
    status, _, errors = explain(*arguments, *responses)
    assert (status, errors) == (0, "")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(read_tokens(page)) == 2
    values = [float(v) for v in re.findall(r"term group_length</th><td.*?><bdi>(.*?)</bdi>", page)]
    assert len(values) == 2
    assert values[0] != values[1]
    assert "in groups of 2" in page
    status, _, _ = explain(*arguments, "--response", RESPONSE)
    assert "none: it compares rollouts" in (tmp_path / "page.html").read_text()


def test_text_from_standard_input(
    explain: Explain, loaded_with: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "It is 7. " * 12_000
    stdin = SimpleNamespace(buffer=io.BytesIO(text.encode() + b"\xff"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert explain("--model", MODEL, "--question", QUESTION, "--response", "-")[0] == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "longer than the context" in page
    shown = "".join(re.findall(r"<(?:i|s)(?: class=\"[\w ]*\")?>(.*?)</[is]>", page))
    assert shown == text + "\ufffd"


def test_options_reach_the_model(explain: Explain, loaded_with: list[Any]) -> None:
    explain(
        *("--model", "m", "--question", "2+3?", "--response", "5", "--system-prompt", "Be brief."),
        *("--standalone-prompt", "bos", "--max-context-tokens", "64", "--device", "cpu"),
        *("--dtype", "bfloat16", "--trust-remote-code"),
    )
    assert loaded_with == [
        (
            "m",
            {
                "system_prompt": "Be brief.",
                "standalone_prompt": "bos",
                "max_context_tokens": 64,
                "device": "cpu",
                "dtype": "bfloat16",
                "trust_remote_code": True,
            },
        )
    ]


@pytest.fixture
def logged(explainer: ModelExplainer, decision: Callable[..., Decision]) -> list[Decision]:
    """Two rollouts of the request `r1`, with the model's own numbers, and one of another."""
    prompt = explainer.render_prompt(QUESTION, DEFAULT_SYSTEM_PROMPT)
    decisions = []
    for response in (RESPONSE, "<script>7</script>"):
        likelihood = explainer.explain(prompt, response).likelihood
        nlls = {"nll_qa": likelihood.nll_qa, "nll_a": likelihood.nll_a}
        decisions.append(decision(response, "7", prompt=prompt, **nlls))
    return [decisions[0], replace(decisions[0], request_id="r10"), decisions[1]]


def test_a_request_of_a_log(
    explain: Explain,
    loaded_with: list[Any],
    logged: list[Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "log").mkdir()
    logged[2] = replace(logged[2], terms={"correctness": 1.0, "overlong": -0.5}, reward=0.5)
    write_log(tmp_path / "log/a.jsonl", logged[:2])
    write_log(tmp_path / "log/b.jsonl", logged[2:])
    status, out, _ = explain("--log", tmp_path / "log", "--request", "r1")
    assert (status, out) == (0, f"2 responses explained: {tmp_path}/page.html\n")
    assert [path for path, _ in loaded_with] == ["demo"], "the log's model"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600, "as the log is"
    assert len(read_tokens(page)) == 2
    assert f"Correct, reward {logged[0].reward:.3f}" in page
    assert "Correct, reward 0.500" in page
    assert "term overlong" in page
    assert "<script>7" not in page
    assert "not the one that gave the reward" not in page


def test_a_log_whose_model_is_gone_asks_for_another(
    explain: Explain,
    decision: Callable[..., Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    log = write_log(tmp_path / "a.jsonl", [replace(decision(), model="./gone")])
    status, _, errors = explain("--log", log, "--request", decision().request_id)
    assert status != 0
    assert errors.startswith("error: cannot load the log's model, ./gone; give --model: ")


def test_a_log_of_other_weights_is_said(
    explain: Explain,
    loaded_with: list[Any],
    logged: list[Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    other = replace(logged[0], nll_a=logged[0].nll_a + 0.01, template_mismatch=True)
    log = write_log(tmp_path / "a.jsonl", [other])
    assert explain("--log", log, "--request", "r1", "--model", "another")[0] == 0
    assert [path for path, _ in loaded_with] == ["another"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"nll_a {other.nll_a:.4f}" in page
    assert "not the one that gave the reward" in page
    assert "template or system prompt is not" in page


def test_what_is_not_in_the_log(
    explain: Explain,
    loaded_with: list[Any],
    logged: list[Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    log = write_log(tmp_path / "a.jsonl", logged)
    status, _, errors = explain("--log", log, "--request", "r2")
    assert (status, errors) == (1, f"error: no rollout of request 'r2' in {log}\n")
    with log.open("a") as file:
        file.write('{"request_id": "r1", "respo')  # a server that was killed
    assert explain("--log", log, "--request", "r1")[0] == 0
    with log.open("a") as file:
        file.write("\n")
    status, _, errors = explain("--log", log, "--request", "r1")
    assert status == 1
    assert errors.startswith(f"error: {log}:4: not a decision: ")
    status, _, errors = explain("--log", tmp_path / "none", "--request", "r1")
    assert (status, errors) == (1, f"error: {tmp_path}/none: no such file or folder\n")


def test_a_request_id_is_found_whatever_it_holds(
    explain: Explain,
    loaded_with: list[Any],
    logged: list[Decision],
    write_log: Callable[[Path, Sequence[Decision]], Path],
    tmp_path: Path,
) -> None:
    odd = [replace(logged[0], request_id=name) for name in ('a"b\\c', "é/1")]
    log = write_log(tmp_path / "a.jsonl", odd)
    for one in odd:
        assert explain("--log", log, "--request", one.request_id)[0] == 0


TEXTS = ["--model", "m", "--question", "2+3?", "--response", "5"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--model is missing"),
        (["--model", "m"], "give either --prompt or --question"),
        (["--model", "m", "--prompt", "a", "--question", "b"], "give either"),
        (["--model", "m", "--prompt", "", "--response", "5"], "--prompt is empty"),
        (["--model", "m", "--question", "2+3?"], "--response is missing"),
        (["--model", "m", "--question", "-", "--response", "-"], "only one text can be -"),
        ([*TEXTS, *["--response", "5"] * 64], "65 responses: at most 64"),
        ([*TEXTS, "--sar-weight", "0.1"], "--label is missing"),
        ([*TEXTS, "--label", ""], "--label: "),
        ([*TEXTS, "--label", "5", "--sar-weight", "x"], "'x' is not a number"),
        ([*TEXTS, "--label", "5", "--sar-weight", "1", "--reward", "r.toml"], "not with --reward"),
        (["--log", "d"], "--log and --request go together"),
        (["--request", "r1"], "--log and --request go together"),
        (["--log", "d", "--request", "r1", "--response", "5"], "--response does not go with --log"),
    ],
)
def test_wrong_options_are_one_line(explain: Explain, arguments: list[str], expected: str) -> None:
    status, out, errors = explain(*arguments)
    assert (status, out) == (2, "")
    assert expected in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*TEXTS[2:], "--model", "./nowhere"], "error: cannot load --model ./nowhere: "),
        ([*TEXTS, "--label", "5", "--reward", "nowhere.toml"], "error: --reward nowhere.toml: No"),
        (
            [*TEXTS[:4], "--response", "a\udcffb"],
            r"error: --response is not Unicode text: 'a\udcff",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    explain: Explain, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    status, out, errors = explain(*arguments)
    assert (status, out) == (1, "")
    assert errors.splitlines()[-1].startswith(expected)
    assert not (tmp_path / "page.html").exists()
