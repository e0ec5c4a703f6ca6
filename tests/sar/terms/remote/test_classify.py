"""`classify` against servers with the schemas of vLLM, SGLang and TEI."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sar.terms.base import Sample
from sar.terms.remote.classify import Classify
from sar.terms.remote.client import RemoteError

MARKS = ["<|im_start|>user\n", "<|im_end|>"]
SCORES = [-3.25, 12.5, 0.0]


def answer_as_vllm(*scores: float) -> Any:
    data = {"index": 0, "label": "LABEL_1", "probs": scores, "num_classes": len(scores)}
    usage = {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}
    return {"id": "classify-1", "object": "list", "model": "rm", "data": [data], "usage": usage}


def answer_as_sglang(*scores: float) -> Any:
    return [{"embedding": scores, "meta_info": {"id": "1", "prompt_tokens": 9}}]


def answer_as_tei(*scores: float) -> Any:
    """Sorted by score, as TEI does."""
    labelled = [{"score": score, "label": f"LABEL_{n}"} for n, score in enumerate(scores)]
    return sorted(labelled, key=lambda one: -one["score"])


ANSWERS = {"vllm": answer_as_vllm, "sglang": answer_as_sglang, "tei": answer_as_tei}


@pytest.mark.parametrize("api", ANSWERS)
def test_one_score(api: Any, fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(ANSWERS[api](-7.5))
    assert Classify(url=fake_server.url, api=api).score(make_sample()) == -7.5


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("api", ANSWERS)
def test_one_class_of_several(
    api: Any, number: int, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply(ANSWERS[api](*SCORES))
    option: Any = {"class_label": f"LABEL_{number}"} if api == "tei" else {"class_index": number}
    term = Classify(url=fake_server.url, api=api, **option)
    assert term.score(make_sample()) == SCORES[number]


def test_classes_with_the_same_label_are_an_error(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply([{"score": 1.5, "label": "A"}, {"score": 2, "label": "A"}])
    options: list[Any] = [{}, {"class_label": "A"}]
    for option in options:
        with pytest.raises(RemoteError, match="several classes of the model have the same label"):
            Classify(url=fake_server.url, api="tei", **option).score(make_sample())


@pytest.mark.parametrize("api", ANSWERS)
def test_a_class_must_be_named_and_exist(
    api: Any, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply(ANSWERS[api](*SCORES))
    option = "class_label" if api == "tei" else "class_index"
    with pytest.raises(RemoteError, match=rf"3 classes: {option} must name one"):
        Classify(url=fake_server.url, api=api).score(make_sample())
    wrong: Any = {option: "LABEL_7" if api == "tei" else 3}
    with pytest.raises(RemoteError, match=rf"no class .* \({option}\); it has '"):
        Classify(url=fake_server.url, api=api, **wrong).score(make_sample())


def test_what_is_sent_to_vllm(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_vllm(1.0))
    sample = make_sample()
    Classify(url=f"{fake_server.url}/", api="vllm", model="rm").score(sample)
    (got,) = fake_server.received
    assert got.path == "/classify"
    text = sample.prompt + sample.response
    assert got.body == {"model": "rm", "input": [text], "use_activation": False}


def test_what_is_sent_to_sglang(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_sglang(1.0))
    term = Classify(
        url=f"{fake_server.url}/classify",
        api="sglang",
        question_between=MARKS,
        template="Q: {question} A: {response}</s>",
    )
    term.score(make_sample())
    (got,) = fake_server.received
    assert (got.path, got.body) == ("/classify", {"text": ["Q: 2+3? A: It is 5.</s>"]})


def test_what_is_sent_to_tei(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_tei(1.0))
    Classify(url=fake_server.url, api="tei", template="{response}").score(make_sample())
    (got,) = fake_server.received
    assert got.path == "/predict"
    assert got.body == {"inputs": "It is 5.", "raw_scores": True, "truncate": False}


@pytest.mark.parametrize(
    ("prompt", "sent"), [("<s>Hi", "Hi|"), ("Hi<s>", "Hi<s>|"), ("<s><s>Hi", "<s>Hi|")]
)
def test_the_bos_token_is_not_doubled(
    prompt: str, sent: str, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply(answer_as_vllm(1.0))
    term = Classify(url=fake_server.url, api="vllm", bos_token="<s>")
    term.score(make_sample("|", prompt=prompt))
    assert fake_server.received[0].body["input"] == [sent]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(st.sampled_from(sorted(ANSWERS)), st.floats(allow_nan=False, allow_infinity=False))
def test_the_score_is_that_of_the_server(
    fake_server: Any, reply: Any, make_sample: Any, api: Any, score: float
) -> None:
    fake_server.reply = lambda _: reply(ANSWERS[api](score))
    assert Classify(url=fake_server.url, api=api).score(make_sample()) == score


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>It works!</html>",
        b"null",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"data": []}',
        b'{"data": [{"probs": []}, {"probs": [1.0]}]}',
        b'{"data": [{"probs": "1.0"}]}',
        b'{"data": [{"probs": [NaN]}]}',
        b'{"data": [{"probs": [1e999]}]}',
        b'{"data": [{"probs": [null]}]}',
        b'[{"embedding": [NaN]}]',
        b'[{"embedding": [1.0]}, {"embedding": [1.0]}]',
        b'[{"embedding": [[1.0]]}]',
        b'[{"score": Infinity, "label": "LABEL_0"}]',
        b'[[{"score": 1.0, "label": "LABEL_0"}]]',
        b'[{"score": 1.0}]',
    ],
)
@pytest.mark.parametrize("api", ANSWERS)
def test_garbage_is_an_error(
    api: Any, answer: bytes, fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply(raw=answer)
    with pytest.raises(RemoteError) as error:
        Classify(url=fake_server.url, api=api).score(make_sample())
    assert "classes" in str(error.value) or f"not of {api}'s form" in str(error.value)
    assert len(str(error.value)) < 300
    assert len(fake_server.received) == 1


def test_no_class_at_all_is_an_error(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_vllm())
    with pytest.raises(RemoteError, match="0 classes"):
        Classify(url=fake_server.url, api="vllm").score(make_sample())


def test_a_prompt_without_its_question_is_an_error(
    fake_server: Any, make_sample: Callable[..., Sample]
) -> None:
    term = Classify(
        url=fake_server.url, api="vllm", question_between=MARKS, template="{question}{response}"
    )
    with pytest.raises(ValueError, match="the prompt has no text between"):
        term.score(make_sample(prompt="2+3?"))
    assert fake_server.received == []


def test_a_text_that_json_escapes(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_vllm(1.0))
    text = 'é "quoted" \\ \n \u2028 \x00 😀'
    Classify(url=fake_server.url, api="vllm", template="{response}").score(make_sample(text))
    assert fake_server.received[0].body["input"] == [text]
    assert json.loads(json.dumps(text)) == text
