"""`judge` against a server with OpenAI's schema, and the strict reading of its score."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.terms.remote.client import RemoteError
from sar.terms.remote.judge import Judge, read_score


def answer_as_openai(text: str | None, finish_reason: str | None = "stop") -> Any:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}


def make_judge(server: Any, **options: Any) -> Judge:
    own: dict[str, Any] = {"model": "judge", "min": 0, "max": 10, "rubric": "Rate: {response}"}
    return Judge(url=f"{server.url}/v1", **own | options)


def test_what_is_sent(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_openai("Fine.\nScore: 7"))
    judge = make_judge(
        fake_server,
        rubric="Question: {question}\nKey: {answer}\nResponse: {response}\n{\\boxed{x}}\n",
        question_between=["<|im_start|>user\n", "<|im_end|>"],
        max_tokens=64,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    assert judge.score(make_sample()) == 0.7
    (got,) = fake_server.received
    assert got.path == "/v1/chat/completions"
    assert got.body == {
        "model": "judge",
        "messages": [
            {
                "role": "user",
                "content": "Question: 2+3?\nKey: 5\nResponse: It is 5.\n{\\boxed{x}}\n\n"
                'End your answer with one line "Score: N", where N is a number from 0 to 10.',
            }
        ],
        "temperature": 0.0,
        "max_tokens": 64,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_the_newer_name_of_the_limit_replaces_the_older(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    fake_server.reply = lambda _: reply(answer_as_openai("Score: 10"))
    extra = {"max_completion_tokens": 9000, "temperature": 1}
    assert make_judge(fake_server, extra_body=extra).score(make_sample()) == 1.0
    body = fake_server.received[0].body
    assert (body["max_completion_tokens"], body["temperature"]) == (9000, 1)
    assert "max_tokens" not in body


def test_a_response_is_not_filled_in_again(fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(answer_as_openai("Score: 1"))
    response = "{answer} {prompt} {response} {0} %s {{answer}} {"
    judge = make_judge(fake_server, rubric="{response}|{prompt}|{answer}")
    judge.score(make_sample(response, prompt="{answer}", answer="{response}"))
    content = fake_server.received[0].body["messages"][0]["content"]
    assert content.startswith(f"{response}|{{answer}}|{{response}}\n")


def test_a_judge_that_forgot_the_line_is_reminded(
    fake_server: Any, reply: Any, make_sample: Any
) -> None:
    texts = iter(["<think>hm</think>**Score: 3**", "Score: 3"])
    fake_server.reply = lambda _: reply(answer_as_openai(next(texts)))
    assert make_judge(fake_server, min=1, max=5).score(make_sample()) == 0.5
    first, second = (got.body["messages"] for got in fake_server.received)
    assert second[0] == first[0]
    assert second[1] == {"role": "assistant", "content": "**Score: 3**"}
    assert second[2]["role"] == "user"
    assert "from 1 to 5. Give only this line." in second[2]["content"]


@pytest.mark.parametrize(
    ("text", "finish_reason", "message"),
    [
        ("Score: 11", "stop", "Score: 11"),
        ("good", "stop", "good"),
        ("", "stop", "''"),
        (None, "stop", "''"),
        ("<think>Score: 7", "stop", "''"),
        # It may have been 10.
        ("Score: 1", "length", "ended by 'length'"),
        ("Score: 1", "content_filter", "ended by 'content_filter'"),
        ("Score: 1", None, "ended by None"),
    ],
)
def test_no_score_after_three_answers_is_an_error(
    text: str | None,
    finish_reason: str | None,
    message: str,
    fake_server: Any,
    reply: Any,
    make_sample: Any,
) -> None:
    fake_server.reply = lambda _: reply(answer_as_openai(text, finish_reason))
    with pytest.raises(RemoteError, match="3 answers of the judge without one line") as error:
        make_judge(fake_server).score(make_sample())
    assert message in str(error.value)
    roles = [[m["role"] for m in got.body["messages"]] for got in fake_server.received]
    assert len(roles) == 3
    assert all(ours == ["user", "assistant"] * (len(ours) // 2) + ["user"] for ours in roles)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"Score: 7",
        b'"Score: 7"',
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}',
        b'{"choices": [{"text": "Score: 7", "finish_reason": "stop"}]}',
        b'{"choices": [{"message": {"content": "Score: 7"}}, {"message": {"content": "7"}}]}',
    ],
)
def test_garbage_is_an_error(answer: bytes, fake_server: Any, reply: Any, make_sample: Any) -> None:
    fake_server.reply = lambda _: reply(raw=answer)
    with pytest.raises(RemoteError, match="is no chat completion"):
        make_judge(fake_server).score(make_sample())
    assert len(fake_server.received) == 1


PROSE = st.text(max_size=40).filter(
    lambda text: "score:" not in text.casefold() and "<" not in text
)


def is_in_form(number: str) -> bool:
    """Digits, with a sign and decimals if wanted: checked character by character."""
    digits = number[1:] if number[:1] in ("+", "-") else number
    whole, dot, decimals = digits.partition(".")
    parts = [whole, decimals] if dot else [whole]
    return all(part and set(part) <= set("0123456789") for part in parts)


@given(PROSE, st.decimals(-100, 100, places=2), st.integers(-100, 100), st.integers(1, 100))
def test_a_score_in_the_range_is_read(text: str, number: Any, low: int, width: int) -> None:
    got = read_score(f"{text}\n  Score: {number} \n\n", low, low + width)
    assert got == (float(number) if low <= float(number) <= low + width else None)


@given(st.text("0123456789+-./eE %٣²\u00a0_", max_size=8))
def test_only_plain_numbers_are_read(number: str) -> None:
    got = read_score(f"Fine.\nScore: {number}", -1e9, 1e9)
    plain = number.strip()
    assert got == (float(plain) if is_in_form(plain) else None)


@given(PROSE.filter(str.strip), st.integers(0, 10))
def test_the_score_ends_the_answer(text: str, number: int) -> None:
    assert read_score(f"Score: {number}\n{text}", 0, 10) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 7", 7.0),
        ("Score:7.50", 7.5),
        ("The Score: line follows.\r\nScore: 0\r\n", 0.0),
        ("<think>Score: 2</think>\nScore: 9", 9.0),
        ("Score: 2\nScore: 9", None),
        ("score: 2\nScore: 9", None),
        ("The response says:\nScore: 10\nThat is wrong.", None),
        ("Score: 7/10", None),
        ("Score: 7.", None),
        ("Score: seven", None),
        ("Score: nan", None),
        ("Score: inf", None),
        ("Score: 1e1", None),
        ("Score: 0x1", None),
        ("Score: 1_0", None),
        ("Score: 7 8", None),
        ("**Score: 7**", None),
        ("My Score: 7", None),
        ("Score 7", None),
        ("7", None),
        ("Score:", None),
        ("Score: " + "9" * 400, None),
        ("<think>Score: 7", None),
    ],
)
def test_reading_a_score(text: str, score: float | None) -> None:
    assert read_score(text, 0, 10) == score
