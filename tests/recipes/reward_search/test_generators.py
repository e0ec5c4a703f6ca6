"""The grammar and the folder: determinism, validity, feedback; and the prompt."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from eval.errors import UserError
from recipes.reward_search.candidates import Candidate, Proposal
from recipes.reward_search.generators.base import Past, Slot
from recipes.reward_search.generators.choose import make_generator
from recipes.reward_search.generators.endpoint import EndpointGenerator
from recipes.reward_search.generators.folder import FolderGenerator
from recipes.reward_search.generators.genes import Genome
from recipes.reward_search.generators.grammar import GrammarGenerator
from recipes.reward_search.generators.prompt import extract_code, make_prompt
from recipes.reward_search.scores import Scores
from recipes.reward_search.settings import SearchSettings
from recipes.reward_search.validation import Validator
from sar.terms.candidate.batch import ProbeRollout
from sar.terms.candidate.language import BUILTINS
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sample import FIELDS, PlainSample

RIGHT: PlainSample = {
    "prompt": "Tom has 2 apples. How many?", "response": "Tom has 1 + 1 = 2. Answer: 2",
    "label": "2", "correct": True, "response_tokens": 20, "ppl_qa": 1.2, "ppl_a": 1.6,
    "sar": 0.25,
}  # fmt: skip
WRONG: PlainSample = {**RIGHT, "correct": False, "sar": -0.3}


def make_slots(round_number: int, num: int) -> list[Slot]:
    return [Slot(f"r{round_number}c{place:02}", round_number, place) for place in range(1, num + 1)]


def make_scores(value: float) -> Scores:
    return Scores(value, value, value, 60.0, value)


def propose(generator: Any, slots: list[Slot], past: list[Past], known: set[str]) -> list[Proposal]:
    found = dict(generator.propose(slots, past, known, 10.0))
    return [found[slot] for slot in slots]


def make_past(proposals: list[Proposal]) -> list[Past]:
    """The first is the best; the last was rejected."""
    past = []
    for place, one in enumerate(proposals, 1):
        is_last = place == len(proposals)
        candidate = Candidate(
            f"r1c{place:02}", 1, one.source, "rejected" if is_last else "screened",
            "it is constant" if is_last else None, genes=one.genes,
        )  # fmt: skip
        past.append(
            Past(candidate) if is_last else Past(candidate, place, make_scores(1 - place / 10))
        )
    return past


def test_the_grammar_is_deterministic() -> None:
    slots = make_slots(1, 20)
    first = propose(GrammarGenerator(3), slots, [], set())
    assert first == propose(GrammarGenerator(3), slots, [], set())
    assert first != propose(GrammarGenerator(4), slots, [], set())
    past = make_past(first)
    known = {one.source for one in first}
    later = make_slots(2, 20)
    second = propose(GrammarGenerator(3), later, past, known)
    assert second == propose(GrammarGenerator(3), later, past, known)
    # A search that was killed after five of the round goes on in the same way.
    started = known | {one.source for one in second[:5]}
    assert propose(GrammarGenerator(3), later[5:], past, started) == second[5:]


def test_the_grammar_repeats_nothing() -> None:
    known: set[str] = set()
    past: list[Past] = []
    for number in (1, 2, 3):
        found = propose(GrammarGenerator(0), make_slots(number, 40), past, known)
        assert not known & {one.source for one in found}
        assert len({one.source for one in found}) == 40
        known |= {one.source for one in found}
        past = make_past(found)


def test_the_grammar_changes_the_best() -> None:
    first = propose(GrammarGenerator(1), make_slots(1, 10), [], set())
    past = make_past(first)
    second = propose(GrammarGenerator(1), make_slots(2, 60), past, set())
    num_of = {
        name: sum(one.parents[:1] == (name,) for one in second)
        for name in [f"r1c{place:02}" for place in range(1, 11)]
    }
    assert num_of["r1c01"] > num_of["r1c02"] > num_of["r1c03"] > 0
    assert sum(num_of.values()) == num_of["r1c01"] + num_of["r1c02"] + num_of["r1c03"]
    assert any(not one.parents for one in second)  # some are new
    assert any(len(one.parents) == 2 for one in second)
    sources = {f"r1c{place:02}": one.source for place, one in enumerate(first, 1)}
    for one in second:
        if len(one.parents) == 1:
            lines = one.source.splitlines()
            changed = set(lines) ^ set(sources[one.parents[0]].splitlines())
            assert 0 < len(changed) <= 6  # a summand has two lines at most; the clip has one


def test_genomes_survive_json_and_are_python() -> None:
    for one in propose(GrammarGenerator(2), make_slots(1, 100), [], set()):
        assert Genome.from_json(one.genes).write() == one.source
        tree = ast.parse(one.source)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert names <= {"sample", "value"} | BUILTINS
        keys = {n.slice.value for n in ast.walk(tree)
                if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Constant)}  # fmt: skip
        assert keys <= set(FIELDS)


def test_the_sandbox_runs_all_of_the_grammar() -> None:
    """On right and wrong, short, long and empty responses; a right one earns at least as much."""
    long: PlainSample = {**RIGHT, "response": "word. " * 4000, "response_tokens": 4000}
    empty: PlainSample = {**RIGHT, "response": "", "response_tokens": 0, "ppl_qa": 1.0}
    earned = []
    for one in propose(GrammarGenerator(7), make_slots(1, 60), [], set()):
        runner = CandidateRunner(one.source)
        rewards = runner.score_all([RIGHT, long, empty, {**RIGHT, "correct": False}])
        assert all(-1 <= reward <= 2 for reward in rewards)
        earned.append(rewards[0] - rewards[3])
    assert sum(more > 0 for more in earned) >= 50


@pytest.mark.slow
def test_most_of_the_grammar_is_accepted() -> None:
    validate = Validator(num_problems=2)
    proposals = propose(GrammarGenerator(5), make_slots(1, 25), [], set())
    checked = [validate(one.source) for one in proposals]
    assert sum(one.reason is None for one in checked) >= 15
    behaviours = {one.behaviour for one in checked if one.reason is None}
    assert len(behaviours) >= 10
    assert validate(proposals[0].source) == checked[0]
    # The sandbox refuses what the grammar would never write.
    constant = validate("def reward(sample):\n    return 1.0\n")
    assert constant.reason is not None
    assert "for all" in constant.reason
    assert validate("import os\ndef reward(sample):\n    return 1.0\n").reason
    backwards = "def reward(sample):\n    return 0.0 if sample['correct'] else 1.0\n"
    assert "right ones must earn more" in (validate(backwards).reason or "")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            "1.0 if s['correct'] else 0.0",
            "the same rewards for the probe batch as correctness alone",
        ),
        ("s['correct'] + 0.2 * s['sar']", "the same rewards .* as correctness \\+ 0.2 SAR"),
        ("s['correct'] + 0.3 * s['sar']", None),
    ],
)
def test_a_candidate_that_is_a_control_is_rejected(
    value: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [ProbeRollout(str(n), "is", one, None) for n, one in enumerate((RIGHT, WRONG))]
    monkeypatch.setattr("sar.terms.candidate.batch.load_batch", lambda num: tuple(batch))
    found = Validator()(f"def reward(s): return {value}").reason
    assert (found is None) if reason is None else re.fullmatch(reason, found or "")


def test_a_folder_hands_out_each_file_once(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "c.py"):
        (tmp_path / name).write_text(f"def reward(sample): return 1  # {name}\n")
    (tmp_path / "notes.txt").write_text("no candidate")
    (tmp_path / "d.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "e.py").write_text("#" * 10**6)
    generator = FolderGenerator(tmp_path, per_round=2)
    rounds = [
        [one for _, one in generator.propose(make_slots(number, 2), [], set(), 1.0)]
        for number in (1, 2, 3, 4)
    ]
    assert [len(one) for one in rounds] == [2, 2, 1, 0]
    names = [one.source[-5:-1] for one in (*rounds[0], rounds[1][0])]
    assert names == ["a.py", "b.py", "c.py"]
    assert rounds[1][1].failure == "d.py: not a text in UTF-8"
    assert len(rounds[2][0].source) < 10**5
    with pytest.raises(UserError, match=r"no \*\.py"):
        FolderGenerator(tmp_path / "none", 2)


@pytest.mark.parametrize(
    ("generator", "model", "message"),
    [
        ("gramar", "", "neither a URL"),
        ("grammar", "qwen", "--model 'qwen' is for a URL"),
        ("http://localhost:1/v1", "", "needs --model"),
        ("http://user:secret@localhost:1/v1", "m", "without a user"),
        ("http://localhost:1/v1?key=secret", "m", "without a user"),
        ("ftp://localhost/v1", "m", "not a URL"),
        ("http://", "m", "not a URL"),
        ("http://[", "m", "not a URL"),
    ],
)
def test_wrong_generators_are_named(generator: str, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_generator(SearchSettings(generator, model=model))
    assert "secret" not in str(caught.value)


def test_generators_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    made = [make_generator(SearchSettings(one)) for one in ("grammar", str(tmp_path))]
    assert [type(one) for one in made] == [GrammarGenerator, FolderGenerator]
    url = make_generator(SearchSettings("https://host/v1/chat/completions", model="m"))
    assert isinstance(url, EndpointGenerator)


def test_the_prompt_tells_all_that_is_needed() -> None:
    past = make_past(propose(GrammarGenerator(1), make_slots(1, 4), [], set()))
    text = make_prompt(Slot("r2c03", 2, 3), 7, past, "aes")
    for name in (*FIELDS, *BUILTINS, "-10", "AES", "candidate 3 of 7 of round 2"):
        assert name in text
    for one in past[:3]:
        assert one.candidate.source in text
        assert f"Rank {one.rank}, {one.candidate.name}: accuracy" in text
    assert text.index("Rank 1") < text.index("Rank 2") < text.index("Rank 3")
    assert "r1c04: it is constant" in text
    first = make_prompt(Slot("r1c01", 1, 1), 7, [], "f1")
    for refused in ("`nonlocal`", "`match`", "`del`", "`assert`", "`from` or `as`", "translate"):
        assert refused in first
    assert "Rank" not in first
    assert "Rejected" not in first
    assert "F1 = 2a" in first
    long = Candidate("r1c01", 1, "x = 1\n" * 5000, "screened")
    many = [Past(long, 1, make_scores(0.5))] * 50
    assert len(make_prompt(Slot("r2c01", 2, 1), 7, many, "aes")) < 40_000


CODE = "def reward(sample):\n    return 1.0\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (f"Here:\n```python\n{CODE}```\nDone.", CODE),
        (f"```\n{CODE}```", CODE),
        (f"```py\r\n{CODE}```", CODE),
        (f"<think>```python\ndef reward(x): bad\n```</think>```python\n{CODE}```", CODE),
        (f"```python\nprint(1)\n```\n```python\n{CODE}```\n```text\nnote\n```", CODE),
        (f"```python\ndef reward(sample): first\n```\n```python\n{CODE}```", CODE),
        (CODE, CODE),
        (f"import math\n\n{CODE}", f"import math\n\n{CODE}"),
        ("", None),
        ("I cannot do that.", None),
        ("```python\nprint('no function')\n```", None),
        ("```python\ndef reward(sample):\n    return", None),  # cut off
        ("Write def reward as you like.", None),
    ],
)
def test_code_is_found_in_answers(answer: str, code: str | None) -> None:
    assert extract_code(answer) == code
