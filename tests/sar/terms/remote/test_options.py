"""A wrong option of a term that asks a model elsewhere is one line, before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.terms.base import Sample
from sar.terms.remote.classify import Classify
from sar.terms.remote.judge import Judge
from sar.terms.remote.template import PLACEHOLDERS, check_template, fill, find_question
from sar.terms.reward_file import RewardFileError, read_reward_file

ROOT = Path(__file__).parents[4]
CLASSIFY = 'term = "classify"\nurl = "http://127.0.0.1:9"\n'
JUDGE = 'term = "judge"\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
RUBRIC = 'rubric = "Rate {response}"\n'
SECRET = "sk-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reward.toml"


def test_a_file_is_read_without_a_network(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        pytest.fail("asks something")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    file.write_text(
        """
        [[terms]]
        term = "classify"
        url = "https://rm.example:8443/models"
        api = "vllm"
        model = "rm"
        class_index = 1
        template = "{prompt}{response}<|im_end|>"
        bos_token = "<s>"
        weight = 0.5
        [[terms]]
        term = "judge"
        name = "clear"
        url = "http://127.0.0.1:9/v1"
        model = "m"
        key_env = "JUDGE_KEY"
        min = 1
        max = 5.5
        timeout_s = 30
        max_concurrency = 8
        question_between = ["<|im_start|>user\\n", "<|im_end|>"]
        rubric = '''
Is {response} a clear answer to {question}? It has to use \\boxed{}.'''
        [terms.extra_body]
        chat_template_kwargs = {enable_thinking = false}
        """
    )
    classify, judge = (one.term for one in read_reward_file(file).terms)
    assert classify == Classify(
        url="https://rm.example:8443/models",
        api="vllm",
        model="rm",
        class_index=1,
        template="{prompt}{response}<|im_end|>",
        bos_token="<s>",
    )
    assert isinstance(judge, Judge)
    assert judge.is_remote
    assert not judge.is_quick
    assert (judge.min, judge.max, judge.max_concurrency, judge.timeout_s) == (1.0, 5.5, 8, 30.0)
    assert judge.rubric == "Is {response} a clear answer to {question}? It has to use \\boxed{}."
    assert judge.extra_body == {"chat_template_kwargs": {"enable_thinking": False}}


def test_the_example_of_the_documentation_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    page = (ROOT / "docs" / "rewards-remote.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("```toml\n")
    file.write_text(rest.partition("```\n")[0])
    terms = read_reward_file(file).terms
    assert [(one.name, one.weight) for one in terms[1:]] == [("classify", 0.1), ("clear", 0.2)]
    assert isinstance(terms[2].term, Judge)
    assert terms[2].term.extra_body == {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('term = "classify"\napi = "vllm"', "'classify': url is missing"),
        (CLASSIFY, "'classify': api is missing"),
        (f'{CLASSIFY}api = "tgi"', "api = 'tgi': must be 'vllm', 'sglang' or 'tei'"),
        (f'{CLASSIFY}api = "vllm"\nmodle = "m"', "'modle' is unknown"),
        (f'{CLASSIFY}api = "vllm"\ntimeout_s = 0', "timeout_s = 0: must be greater than 0"),
        (f'{CLASSIFY}api = "vllm"\ntimeout_s = nan', "timeout_s = nan: must be"),
        (f'{CLASSIFY}api = "vllm"\nmax_concurrency = 0', "max_concurrency = 0: must be"),
        (f'{CLASSIFY}api = "vllm"\nmax_concurrency = 1.5', "max_concurrency = 1.5: must be"),
        (f'{CLASSIFY}api = "vllm"\nclass_index = -1', "class_index = -1: must be"),
        (f'{CLASSIFY}api = "vllm"\nclass_label = "x"', "class_label = 'x': must be left out with"),
        (f'{CLASSIFY}api = "tei"\nclass_index = 1', "class_index = 1: must be left out with"),
        (f'{CLASSIFY}api = "tei"\nmodel = "m"', "model = 'm': must be left out with api = "),
        (f'{CLASSIFY}api = "tei"\ntemplate = "{{prompt}}"', "must be a text with {response}"),
        (
            f'{CLASSIFY}api = "tei"\ntemplate = "{{question}}{{response}}"',
            "must be without {question}, or question_between must say where a question is",
        ),
        (
            f'{CLASSIFY}api = "tei"\ntemplate = "{{Prompt}}{{response}}"',
            "must be without '{Prompt}': did you mean {prompt}?",
        ),
        (f'{CLASSIFY}api = "tei"\nquestion_between = ["a"]', "must be two texts"),
        (f'{CLASSIFY}api = "tei"\nquestion_between = ["a", ""]', "must be two texts"),
        (f'{CLASSIFY}api = "tei"\nquestion_between = "ab"', "question_between = 'ab': must be"),
        (f"{JUDGE}{RUBRIC}max = 1", "'judge': min is missing"),
        (f"{JUDGE}min = 0\nmax = 1", "'judge': rubric is missing"),
        (f"{JUDGE}{RUBRIC}min = 1\nmax = 1", "max = 1: must be more than min = 1"),
        (f"{JUDGE}{RUBRIC}min = -1.7e308\nmax = 1.7e308", "must be nearer to min = -1.7e+308"),
        (f"{JUDGE}{RUBRIC}min = 0\nmax = inf", "max = inf: must be"),
        (f'{JUDGE}{RUBRIC}min = "0"\nmax = 1', "min = '0': must be"),
        (f"{JUDGE}rubric = 'Rate {{reponse}}'\nmin = 0\nmax = 1", "did you mean {response}?"),
        (f"{JUDGE}rubric = ''\nmin = 0\nmax = 1", "rubric = '': must be a text with {response}"),
        (f"{JUDGE}{RUBRIC}min = 0\nmax = 1\nmax_tokens = 0", "max_tokens = 0: must be"),
        (f"{JUDGE}{RUBRIC}min = 0\nmax = 1\nextra_body = {{n = 2}}", "must be without 'n'"),
        (
            f"{JUDGE}{RUBRIC}min = 0\nmax = 1\nextra_body = {{day = 2026-01-01}}",
            "must be a table that JSON can hold",
        ),
    ],
)
def test_what_is_wrong_is_one_line(file: Path, text: str, message: str) -> None:
    file.write_text(f"[[terms]]\n{text}\n")
    with pytest.raises(RewardFileError) as error:
        read_reward_file(file)
    assert str(error.value).startswith(f"{file}: terms[1] ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host",
        "http://",
        "http:///classify",
        "http://host:port",
        "http://host:70000",
        "http://host:0",
        "http://[::1",
        "http://a b",
        "http://a\\tb",
        "http://höst",
        "//host",
        "file:///etc/passwd",
    ],
)
def test_a_wrong_url(url: str, file: Path) -> None:
    file.write_text(f'[[terms]]\nterm = "classify"\napi = "vllm"\nurl = "{url}"\n')
    with pytest.raises(RewardFileError, match="must be an address, such as http://localhost:8000"):
        read_reward_file(file)


@pytest.mark.parametrize(
    "url", [f"http://u:{SECRET}@host", f"http://host/?key={SECRET}", f"http://host/#{SECRET}"]
)
def test_a_url_with_a_secret_is_not_shown(url: str, file: Path) -> None:
    file.write_text(f'[[terms]]\nterm = "classify"\napi = "vllm"\nurl = "{url}"\n')
    with pytest.raises(RewardFileError, match="url must be without a user, password or query") as e:
        read_reward_file(file)
    assert SECRET not in str(e.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RM_KEY", None, "key_env = 'RM_KEY': must be an environment variable that is set"),
        ("RM_KEY", "", "key_env = 'RM_KEY': must be an environment variable that is set"),
        ("RM_KEY", f"{SECRET}\n", "key_env = 'RM_KEY': must be a variable whose value has only"),
        ("RM_KEY", f"{SECRET}é", "key_env = 'RM_KEY': must be a variable whose value has only"),
        (SECRET, None, "key_env must be the name of an environment variable, in capitals"),
        ("", None, "key_env must be the name of an environment variable, in capitals"),
    ],
)
def test_a_key_that_is_not_there(
    name: str, value: str | None, message: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RM_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    file.write_text(f'[[terms]]\n{CLASSIFY}api = "vllm"\nkey_env = "{name}"\n')
    with pytest.raises(RewardFileError) as error:
        read_reward_file(file)
    assert message in str(error.value)
    assert SECRET not in str(error.value)


TEXTS = st.text(st.sampled_from("{}a%\\ \n") | st.characters(codec="utf-8"), max_size=20)
PARTS = st.lists(
    st.sampled_from([f"{{{name}}}" for name in PLACEHOLDERS]) | st.text("ab%\n", max_size=5)
)


@given(PARTS, st.lists(TEXTS, min_size=4, max_size=4))
def test_a_template_is_filled_in_once(parts: list[str], texts: list[str]) -> None:
    question, response, answer, system = texts
    prompt = f"{system}\x01{question}\x02"
    sample = make_sample(prompt, response, answer)
    values = {"prompt": prompt, "question": question, "response": response, "answer": answer}
    expected = [values[part[1:-1]] if part.startswith("{") else part for part in parts]
    if "\x01" not in question + system and "\x02" not in question:
        assert fill("".join(parts), sample, ["\x01", "\x02"]) == "".join(expected)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{prompt}{response}</s>", "<u>2+3?</u><think>\nAdd.</think>5</s>"),
        ("{prompt} {response}", "<u>2+3?</u><think>\n <think>Add.</think>5"),
        ("{question}|{response}", "2+3?|<think>Add.</think>5"),
    ],
)
def test_an_opening_tag_of_the_prompt_is_not_doubled(template: str, expected: str) -> None:
    sample = make_sample("<u>2+3?</u><think>\n", "<think>Add.</think>5", "5")
    assert fill(template, sample, ["<u>", "</u>"]) == expected


def make_sample(prompt: str, response: str, answer: str) -> Sample:
    from sar.grading.label import Label
    from sar.grading.verdict import Reason, Verdict
    from sar.reward import Likelihood

    likelihood = Likelihood(0.5, 1.0, 7, over_context=False)
    return Sample(prompt, response, Label(answer, "exact"), Verdict(Reason.CORRECT), likelihood)


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("<u>2+3?</u>", "2+3?"),
        ("<s>Be brief.</s><u>2+3?</u><a>", "2+3?"),
        ("<u>Hi</u><a>Hello</a><u>2+3?</u>", "2+3?"),
        ("<u></u>", ""),
    ],
)
def test_the_question_is_the_last_turn(prompt: str, question: str) -> None:
    assert find_question(prompt, ["<u>", "</u>"]) == question


@pytest.mark.parametrize("prompt", ["", "2+3?", "<u>2+3?", "2+3?</u>", "</u><u>2+3?"])
def test_a_prompt_without_a_turn_is_an_error(prompt: str) -> None:
    with pytest.raises(ValueError, match="the prompt has no text between '<u>' and '</u>'"):
        find_question(prompt, ["<u>", "</u>"])


@pytest.mark.parametrize(
    "name", ["respons", "responses", " response ", "RESPONSE", "Answer", "qestion"]
)
def test_a_misspelt_placeholder(name: str) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        check_template(f"{{response}} {{{name}}}")


@pytest.mark.parametrize(
    "text", [r"\boxed{x}", r"\frac{a}{b}", '{"score": 7}', "{}", "{{x}}", "{n}"]
)
def test_other_braces_are_text(text: str) -> None:
    assert check_template(f"{{response}} {text}") == f"{{response}} {text}"
