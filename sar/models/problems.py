"""Seeded generator of toy word problems, each with four responses.

`generate(seed, held_out=True)` yields problems that are not in the bundled model's training data.
The texts come from `phrases`: no data set is read. Uses the standard library only.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from sar.models import phrases

MAX_VALUE = 60  # no number in a question or a step is larger
HELD_OUT_EVERY = 10  # one question in this many is kept for evaluation


@dataclass(frozen=True)
class ArithmeticProblem:
    """A word problem, its answer, and four responses that a policy might write.

    Attributes:
        num_steps: one to three; each is a sentence of the concise response.
        concise: the steps and the answer only.
        padded: the same steps and answer, with restatements, hedges and repetitions.
        wrong_end: the right steps, but the last result and the answer are wrong.
        unrelated: the concise response to another problem.
    """

    question: str
    answer: int
    num_steps: int
    concise: str
    padded: str
    wrong_end: str
    unrelated: str


@dataclass(frozen=True)
class Story:
    """The parts of a problem from which its responses are written."""

    name: str
    items: str
    facts: tuple[str, ...]
    asked: str
    steps: tuple[str, ...]
    wrong_step: str
    answer: int
    wrong_answer: int

    @property
    def question(self) -> str:
        return " ".join((*self.facts, self.asked))


def calculate(symbol: str, value: int, n: int) -> int | None:
    """The result of `value symbol n`.

    None if a sum, difference or product is not from 1 to MAX_VALUE, or if a quotient is not a whole
    number above 1.
    """
    if symbol == "/":
        return value // n if value % n == 0 and value > n else None
    result = {"+": value + n, "-": value - n, "*": value * n}[symbol]
    return result if 0 < result <= MAX_VALUE else None


def draw_story(rng: random.Random) -> Story:
    """Draws one to three steps about one owner and one kind of item, until all numbers fit."""
    num_steps = rng.choice((1, 1, 2, 2, 3))
    while (story := _try_story(rng, num_steps)) is None:
        pass
    return story


def _try_story(rng: random.Random, num_steps: int) -> Story | None:
    name, friend = rng.sample(list(phrases.NAMES), 2)
    subject, he, him, his = phrases.NAMES[name]
    holder, holders = rng.choice(phrases.HOLDERS)
    words = {
        "name": name, "friend": friend, "items": rng.choice(phrases.ITEMS),
        "He": subject, "he": he, "him": him, "his": his, "His": his.capitalize(),
        "holder": holder, "holders": holders,
    }  # fmt: skip
    moves = [rng.choice(phrases.MOVES) for _ in range(num_steps)]
    if any(move.symbol == "/" for move in moves[:-1]):
        return None  # sharing has to be the last step: it ends the owner's count
    if moves[0].symbol == "*":
        moves[0] = phrases.GROUPS
    has_groups = moves[0] is phrases.GROUPS
    value = rng.randint(2, 10 if has_groups else 20)
    facts = [] if has_groups else [rng.choice(phrases.STARTS).format(n=value, **words)]
    steps: list[str] = []
    wrong_step, wrong_answer = "", 0
    for move in moves:
        n = rng.randint(2, 5 if move.symbol in "*/" else 12)
        result = calculate(move.symbol, value, n)
        if result is None:
            return None
        facts.append(rng.choice(move.events).format(n=n, value=value, **words))
        step = rng.choice(move.steps)
        wrong_answer = result + rng.choice([d for d in (-3, -2, -1, 1, 2, 3) if result + d > 0])
        expression = f"{value} {move.symbol} {n} = "
        steps.append(step.format(sum=f"{expression}{result}", **words))
        wrong_step = step.format(sum=f"{expression}{wrong_answer}", **words)
        value = result
    asked = rng.choice(moves[-1].questions).format(**words)
    return Story(
        name, words["items"], tuple(facts), asked, tuple(steps), wrong_step, value, wrong_answer
    )


def write_concise(steps: tuple[str, ...], answer: int) -> str:
    """The steps, then the answer in the form that a grader reads."""
    return " ".join((*steps, f"Answer: {answer}"))


def write_padded(rng: random.Random, story: Story) -> str:
    """The same steps and answer, with filler before, between and after them."""
    parts = [rng.choice(phrases.OPENINGS).format(items=story.items)]
    if rng.random() < 0.5:
        parts.append(rng.choice(phrases.RESTATEMENTS).format(fact=rng.choice(story.facts)))
    for step in story.steps:
        parts.append(step)
        if rng.random() < 0.6:
            parts.append(rng.choice(phrases.HEDGES))
        if rng.random() < 0.5:
            parts.append(rng.choice(phrases.REPEATS).format(step=step))
    parts.append(rng.choice(phrases.CLOSINGS).format(answer=story.answer))
    return write_concise(tuple(parts), story.answer)


def draw_problem(rng: random.Random) -> ArithmeticProblem:
    """Draws a problem; its unrelated response is about another owner and other items."""
    story = draw_story(rng)
    other = draw_story(rng)
    while other.name == story.name or other.items == story.items:
        other = draw_story(rng)
    return ArithmeticProblem(
        question=story.question,
        answer=story.answer,
        num_steps=len(story.steps),
        concise=write_concise(story.steps, story.answer),
        padded=write_padded(rng, story),
        wrong_end=write_concise((*story.steps[:-1], story.wrong_step), story.wrong_answer),
        unrelated=write_concise(other.steps, other.answer),
    )


def is_held_out(question: str) -> bool:
    """True if a question is for evaluation. Depends only on its text, so all seeds split alike."""
    return hashlib.sha256(question.encode()).digest()[0] % HELD_OUT_EVERY == 0


def generate(seed: int, held_out: bool) -> Iterator[ArithmeticProblem]:
    """Endless problems of one side of the split; the same seed gives the same problems."""
    rng = random.Random(seed)
    while True:
        problem = draw_problem(rng)
        if is_held_out(problem.question) == held_out:
            yield problem
