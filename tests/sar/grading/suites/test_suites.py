"""The field's own suites: what other graders' tests and rules say, against our verdicts.

    pytest tests/sar/grading/suites -s                            prints one line for each suite
    pytest tests/sar/grading/suites --refresh-disagreements       rewrites disagreements.toml

Math-Verify and lm-evaluation-harness ship tests: these are downloaded, and their cases read without
running them. The other peers ship a grader and no cases. For these, `pairs.jsonl` holds cases of
ours, of the kinds that the peer's rules are about; `verdicts` are what the peer's own code said of
each, and `correct` is what a person says.

Every disagreement is listed in disagreements.toml, with a reason. A test fails on a disagreement
that is not listed, and on a listed one that no longer exists.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sar.grading.label import LabelError, parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict

FOLDER = Path(__file__).parent
DISAGREEMENTS = FOLDER / "disagreements.toml"
NO_REASON = "TODO"

ReadSource = Callable[[str, str], dict[str, str]]
MathVerify = Callable[[str, str], bool]


@dataclass(frozen=True)
class Case:
    id: str
    response: str
    label: str
    theirs: bool
    """The peer's verdict."""
    correct: bool | None = None
    """A person's verdict, if the case is ours."""


@dataclass(frozen=True)
class Reason:
    """Why we disagree with peers about some cases."""

    text: str
    wrong: str
    """Whose verdict is wrong: "theirs", "ours", or "neither" for a matter of convention."""
    ours: bool
    """Our verdict. The peer's is the other one."""
    cases: dict[str, list[str]]
    """Ids of the cases by suite."""


@dataclass(frozen=True)
class Peer:
    """A grader without tests: how a response states an answer so that this grader reads it."""

    template: str
    source: str


BOXED = r"So we get \boxed{%s}."
PEERS = {
    "hendrycks_math": Peer("The answer is $%s$.", "lm-eval 0.4.13, process_results"),
    "minerva_math": Peer(
        "Final Answer: The final answer is $%s$. I hope it is correct.",
        "lm-eval 0.4.13, process_results, its exact_match; sympy 1.13.1, antlr4 4.11",
    ),
    "prm800k": Peer(r"\boxed{%s}", "openai/prm800k 7ecc794, grade_answer on the answer alone"),
    "qwen_math": Peer(BOXED, "QwenLM/Qwen2.5-Math a45202b, extract_answer and math_equal"),
    "prime_math": Peer(BOXED, "verl 0.9.1, compute_score"),
    "math_dapo": Peer("Answer: %s", "verl 0.9.1, compute_score"),
}


def read_pairs(name: str) -> list[Case]:
    """Returns the cases of ours that one peer's rules are about."""
    lines = (FOLDER / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        Case(
            row["id"],
            row.get("response") or PEERS[name].template.replace("%s", row["answer"]),
            row["label"],
            bool(row["verdicts"][name]),
            bool(row["correct"]),
        )
        for row in map(json.loads, lines)
        if name in row["verdicts"]
    ]


def read_math_verify(read_source: ReadSource) -> list[Case]:
    """Returns Math-Verify's cases: a gold answer, a text, and whether they should agree."""
    cases = []
    for path, source in read_source("math-verify", "tests/").items():
        for test in _find_tests(source):
            for index, values in enumerate(_read_parameters(test)):
                if values and "pred" in values and "gold" in values:
                    expected = values.get("expected", values.get("result"))
                    case_id = f"{_shorten(Path(path).stem)}/{_shorten(test.name)}/{index}"
                    cases.append(Case(case_id, values["pred"], values["gold"], bool(expected)))
    assert len(cases) == 274, "one more case is computed, so it is not read"
    return cases


def box_bare_answers(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases whose text is one answer and no more, with the answer in a box."""
    boxed = []
    for case in cases:
        text = case.response.strip()
        formula = re.fullmatch(r"\$\$?([^$]+)\$\$?|\\[\[(](.+)\\[\])]", text, re.DOTALL)
        has_words = re.search(r"[a-zA-Z]{2,}", re.sub(r"\\[a-zA-Z]+", "", text))
        answer = formula[1] or formula[2] if formula else "" if has_words else text
        if answer and not re.search(r"\n|\$|\\boxed", answer):
            response = rf"\boxed{{{answer.strip()}}}"
            boxed.append(Case(case.id, response, case.label, case.theirs))
    return boxed


def read_lm_eval_tests(read_source: ReadSource) -> list[Case]:
    """Returns what lm-evaluation-harness' test of minerva_math asserts to be equal or not."""
    (source,) = read_source("lm-eval", "tests/test_minerva_math.py").values()
    cases = []
    for test in _find_tests(source):
        for row, bindings in enumerate(_read_parameters(test) or [{}]):
            for column, (pair, is_equal) in enumerate(_find_equalities(test, bindings or {})):
                case_id = f"{_shorten(test.name)}/{row}.{column}"
                cases.append(Case(case_id, rf"\boxed{{{pair[0]}}}", pair[1], is_equal))
    assert len(cases) == 30
    return cases


def _shorten(name: str) -> str:
    return name.removeprefix("test_")


def _find_tests(source: str) -> Iterator[ast.FunctionDef]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield node


def _read_parameters(test: ast.FunctionDef) -> list[dict[str, Any] | None]:
    """Returns the arguments of each run of a parametrized test; None for those not literal."""
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize"):
            names = [name.strip() for name in ast.literal_eval(decorator.args[0]).split(",")]
            assert isinstance(decorator.args[1], ast.List)
            return [_read_row(names, row) for row in decorator.args[1].elts]
    return []


def _read_row(names: Sequence[str], row: ast.expr) -> dict[str, Any] | None:
    try:
        if isinstance(row, ast.Call):  # pytest.param
            values = [ast.literal_eval(value) for value in row.args]
        else:
            value = ast.literal_eval(row)
            values = list(value) if len(names) > 1 else [value]
    except ValueError:
        return None
    return dict(zip(names, values, strict=True))


def _find_equalities(
    test: ast.FunctionDef, bindings: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, str], bool]]:
    """Yields ((answer, label), is equal) of each `assert is_equiv(a, b)` or `normalize(a) == b`."""
    for node in ast.walk(test):
        if not isinstance(node, ast.Assert):
            continue
        claim, is_equal = node.test, True
        if isinstance(claim, ast.UnaryOp):
            claim, is_equal = claim.operand, False
        if isinstance(claim, ast.Compare):
            sides = [claim.left, *claim.comparators]
        else:
            assert isinstance(claim, ast.Call)
            sides = claim.args
        texts = [_read_text(side, bindings) for side in sides]
        if texts[0] and texts[1]:
            yield (texts[0], texts[1]), is_equal


def _read_text(node: ast.expr, bindings: Mapping[str, Any]) -> str | None:
    """Returns the text that a literal, a parameter, or `normalize` of one stands for."""
    if isinstance(node, ast.Call) and len(node.args) == 1:
        return _read_text(node.args[0], bindings)
    value = bindings.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", None)
    return value if isinstance(value, str) else None


def _read_pairs_of(name: str) -> Callable[[ReadSource], list[Case]]:
    return lambda _: read_pairs(name)


SUITES: dict[str, Callable[[ReadSource], list[Case]]] = {
    "math_verify": read_math_verify,
    "math_verify_boxed": lambda read_source: box_bare_answers(read_math_verify(read_source)),
    "minerva_math_tests": read_lm_eval_tests,
    **{name: _read_pairs_of(name) for name in PEERS},
}


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    pool = GraderPool(num_workers=2, timeout_s=10)
    yield pool
    pool.close()


def grade_all(pool: GraderPool, cases: Sequence[Case]) -> list[bool]:
    """Returns our verdicts. A label that we refuse credits no response."""
    pending: list[Future[Verdict] | None] = []
    for case in cases:
        try:
            pending.append(pool.submit(case.response, parse_label(case.label)))
        except LabelError:
            pending.append(None)
    return [bool(verdict and verdict.result().correctness) for verdict in pending]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_disagreement_has_a_reason(
    suite: str,
    pool: GraderPool,
    read_source: ReadSource,
    refresh: bool,
    is_shown: bool,
    math_verify: MathVerify,
) -> None:
    cases = SUITES[suite](read_source)
    ours = grade_all(pool, cases)
    found = {
        case.id: verdict
        for case, verdict in zip(cases, ours, strict=True)
        if verdict != case.theirs
    }
    assert len({case.id for case in cases}) == len(cases)
    if refresh:
        write_reasons(update_reasons(read_reasons(), suite, found))
    reasons = read_reasons()
    if is_shown:
        alone = [math_verify(case.response, case.label) for case in cases]
        print_line(suite, cases, ours, alone, reasons)
    listed = {case_id: reason.ours for reason in reasons for case_id in reason.cases.get(suite, [])}
    by_id = {case.id: case for case in cases}
    new = [f"{by_id[i]} ours={found[i]}" for i in found if listed.get(i) != found[i]]
    settled = [i for i in listed if i not in found]
    assert not new + settled, "\n".join(
        [
            "Run with --refresh-disagreements, then write the reasons.",
            *("new: " + line for line in new),
            *("settled, or no such case: " + line for line in settled),
        ]
    )


def test_every_reason_is_written_and_fits_the_verdict_of_a_person() -> None:
    reasons = read_reasons()
    assert [r.cases for r in reasons if r.text == NO_REASON] == []
    assert {reason.wrong for reason in reasons} <= {"theirs", "ours", "neither"}
    pairs = [(suite, i) for reason in reasons for suite, ids in reason.cases.items() for i in ids]
    assert [pair for pair, count in Counter(pairs).items() if count > 1] == []
    assert {suite for suite, _ in pairs} <= set(SUITES)
    by_hand = {case.id: case.correct for name in PEERS for case in read_pairs(name)}
    for reason in reasons:
        if reason.wrong != "neither":
            correct = reason.ours if reason.wrong == "theirs" else not reason.ours
            listed = [i for suite, ids in reason.cases.items() if suite in PEERS for i in ids]
            assert [i for i in listed if by_hand[i] != correct] == [], reason.text


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize(
    ("suite", "package", "path"),
    [
        ("hendrycks_math", "lm-eval", "lm_eval/tasks/hendrycks_math/utils.py"),
        ("math_dapo", "verl", "verl/utils/reward_score/math_dapo.py"),
    ],
)
def test_the_recorded_verdicts_are_the_peers(
    suite: str, package: str, path: str, read_source: ReadSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of the peers that run here. The others need an older parser, or are no packages."""
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(Dataset=None))
    peer: dict[str, Any] = {}
    exec(compile(read_source(package, path)[path], path, "exec"), peer)
    for case in read_pairs(suite):
        if suite == "math_dapo":
            verdict = peer["compute_score"](case.response, case.label)["acc"]
        else:
            document = {"solution": rf"\boxed{{{case.label}}}"}
            verdict = peer["process_results"](document, [case.response])["exact_match"]
        assert verdict == case.theirs, case


def print_line(
    suite: str,
    cases: Sequence[Case],
    ours: Sequence[bool],
    alone: Sequence[bool],
    reasons: Sequence[Reason],
) -> None:
    num_ours = sum(o == case.theirs for o, case in zip(ours, cases, strict=True))
    num_alone = sum(a == case.theirs for a, case in zip(alone, cases, strict=True))
    line = f"\n{suite}: {len(cases)} cases; agree: ours {num_ours}, math-verify alone {num_alone}"
    wrong = Counter[str]()
    for reason in reasons:
        wrong[reason.wrong] += len(reason.cases.get(suite, []))
    line += "; wrong where we disagree: " + ", ".join(f"{who} {n}" for who, n in wrong.items() if n)
    if all(case.correct is not None for case in cases):
        counts = [
            sum(v == case.correct for v, case in zip(verdicts, cases, strict=True))
            for verdicts in (ours, [case.theirs for case in cases], alone)
        ]
        line += "; right by hand: ours {}, theirs {}, math-verify alone {}".format(*counts)
    print(line)


def read_reasons() -> list[Reason]:
    with DISAGREEMENTS.open("rb") as file:
        return [Reason(**entry) for entry in tomllib.load(file)["disagreement"]]


def update_reasons(
    reasons: Sequence[Reason], suite: str, found: Mapping[str, bool]
) -> list[Reason]:
    """Removes the settled cases of one suite, and adds the new ones without a reason."""
    kept = []
    missing = dict(found)
    for reason in reasons:
        ids = [i for i in reason.cases.get(suite, []) if found.get(i) == reason.ours]
        for case_id in ids:
            missing.pop(case_id)
        cases = {**reason.cases, suite: ids}
        kept.append(Reason(reason.text, reason.wrong, reason.ours, _drop_empty(cases)))
    for ours in (False, True):
        cases = {suite: [i for i, verdict in missing.items() if verdict == ours]}
        kept.append(Reason(NO_REASON, "", ours, _drop_empty(cases)))
    return [reason for reason in kept if reason.cases]


def _drop_empty(cases: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {suite: ids for suite, ids in cases.items() if ids}


def write_reasons(reasons: Sequence[Reason]) -> None:
    """Writes disagreements.toml, with the comment that it starts with."""
    head = re.match(r"(?:#.*\n)*", DISAGREEMENTS.read_text(encoding="utf-8"))
    lines = [head[0] if head else ""]
    for reason in reasons:
        lines += ["[[disagreement]]", f"text = {json.dumps(reason.text, ensure_ascii=False)}"]
        lines += [f'wrong = "{reason.wrong}"', f"ours = {str(reason.ours).lower()}"]
        for suite, ids in reason.cases.items():
            line = f"cases.{suite} = {json.dumps(ids)}"
            lines += textwrap.wrap(
                line, 100, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
            )
        lines.append("")
    DISAGREEMENTS.write_text("\n".join(lines), encoding="utf-8")
