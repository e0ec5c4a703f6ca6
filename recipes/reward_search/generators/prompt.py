"""What a language model is told: task, contract, language, and how earlier candidates ranked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval.benchmarks import BENCHMARKS
from recipes.reward_search.generators.base import Past, Slot
from recipes.reward_search.scores import Scores
from recipes.reward_search.settings import OwnSettings
from sar.grading.rules.answers import strip_thinking
from sar.terms.candidate.language import BUILTINS, MODULES, REFUSED_NODES
from sar.terms.candidate.sample import FIELDS
from sar.terms.candidate.sandbox import Limits

MAX_SHOWN = 10
"""Ranked candidates, and rejected ones, in a prompt."""
_MAX_CODE_CHARS = 2_000
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)```", re.DOTALL | re.IGNORECASE)
_HEAD = re.compile(r"^(?:import |from |def )", re.MULTILINE)

_TASK = """\
You design reward functions for reinforcement learning of a language model that solves {problems} \
It is trained with GRPO: for each problem it writes {rollouts} responses, and each response's \
advantage is its reward minus the mean reward of the {rollouts}.

Goal: after a short training run, the model should be right as often as possible, and its \
responses should be short. {lengths} Each reward is ranked by {goal}. A reward that can be earned \
without solving the problem fails: right responses must earn more than wrong ones on average, and \
tricks (an answer without work, many answers, an empty response, padding, repetition) no more than \
honest right responses.

Write one Python function, `reward(sample)`, that returns a number between {low:g} and {high:g}. \
`sample` is a dictionary:
{fields}

The function is called for right and wrong, long, short, empty and hostile responses, and must \
return a finite number for each, in well under a millisecond. It must not be constant, and must \
give the same number for the same sample.

It runs in a sandbox with a part of Python: functions, if, for, while, try, comprehensions, texts, \
numbers, lists, dictionaries and sets. Only {modules} may be imported, as `import math`, without \
`from` or `as`. Built-in names: {builtins}. Some methods of str are missing, such as translate, \
and a method can only be called: `key=str.lower` fails. \
Not allowed: {refused}, decorators, files and `print`."""
_DEMO_PROBLEMS = """\
word problems of grade-school arithmetic. The model writes a few sentences and ends with \
"Answer: N"."""
_DEMO_LENGTHS = "Responses start at about 60 tokens, many of which are remarks that do not help."
_GOALS = {
    "aes": "AES = (share of length saved) + 5 x (share of accuracy gained), both against training "
    "on correctness alone",
    "f1": "F1 = 2a / (1 + a), where a is the accuracy",
}


def make_prompt(
    slot: Slot,
    per_round: int,
    past: Sequence[Past],
    rank_by: str,
    own: OwnSettings | None = None,
) -> str:
    """The text for one candidate.

    Args:
        own: the model and benchmarks, if they are not the CPU demo's.
    """
    high = Limits().max_abs
    parts = [
        _TASK.format(
            problems=_describe_problems(own) if own else _DEMO_PROBLEMS,
            lengths=f"A response has at most {own.max_tokens} tokens." if own else _DEMO_LENGTHS,
            rollouts=own.n_samples if own else 6,
            goal=_GOALS[rank_by],
            low=-high,
            high=high,
            fields="\n".join(f"- {name}: {text}" for name, text in FIELDS.items()),
            modules=" and ".join(sorted(MODULES)),
            builtins=", ".join(sorted(BUILTINS)),
            refused=", ".join(name for name, _ in REFUSED_NODES.values()),
        )
    ]
    ranked = [one for one in past if one.rank][:MAX_SHOWN]
    if ranked:
        parts.append("Earlier candidates, best first:")
        parts += [_describe(one) for one in ranked]
    rejected = [one for one in past if one.candidate.status == "rejected"][-MAX_SHOWN:]
    if rejected:
        parts.append("Rejected before training:")
        parts += [f"{one.candidate.name}: {one.candidate.reason}" for one in rejected]
    parts.append(
        f"Write candidate {slot.place} of {per_round} of round {slot.round}."
        + (" Improve on the best, or try an idea that none of them has." if ranked else "")
        + f" The {per_round} are written at the same time: choose an idea that others may not "
        "think of. Answer with one code block that holds the whole function."
    )
    return "\n\n".join(parts)


def _describe_problems(own: OwnSettings) -> str:
    """The benchmarks. The policy's name and the data stay here: a path may be private."""
    names = own.benchmarks.split(",")
    listed = "; ".join(f"{name} ({BENCHMARKS[name].description})" for name in names)
    return f"problems such as those of the benchmarks it is tested on: {listed}."


def _describe(one: Past) -> str:
    assert one.scores is not None
    code = one.candidate.source[:_MAX_CODE_CHARS].rstrip()
    heading = f"Rank {one.rank}, {one.candidate.name}: {describe_scores(one.scores)}"
    return f"{heading}\n```python\n{code}\n```"


def describe_scores(scores: Scores) -> str:
    """A line such as "accuracy 0.850, F1 0.919, mean tokens 47.1, AES +0.250"."""
    aes = "undefined" if scores.aes is None else f"{scores.aes:+.3f}"
    return (
        f"accuracy {_show(scores.accuracy, 3)}, F1 {_show(scores.f1, 3)}, "
        f"mean tokens {_show(scores.tokens, 1)}, AES {aes}"
    )


def _show(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def extract_code(answer: str) -> str | None:
    """The code in a language model's answer: its last code block with `def reward`, or an answer
    that is code as a whole. None if it holds neither."""
    text = strip_thinking(answer)
    blocks = [block for block in _FENCE.findall(text) if "def reward" in block]
    if blocks:
        return str(blocks[-1])
    if "```" not in text and "def reward" in text and (head := _HEAD.search(text)):
        return text[head.start() :].rstrip() + "\n"
    return None
