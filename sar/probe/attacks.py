"""The battery: every attack with its name and its trick, in the order of the lists below.

A new attack is one function in `blind` or `styled`, and one entry here.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from sar.probe import blind, styled
from sar.probe.case import Case, Make

# Attacks that are cut off: no end-of-sequence token follows them.
_WITHOUT_END: frozenset[Make] = frozenset({blind.truncated, styled.no_end})


@dataclass(frozen=True)
class Attack:
    """One way to earn, or one of the responses that all others are compared with."""

    name: str
    trick: str
    """What it does, in words that follow "it"."""
    make: Make
    solves: bool
    """True: it gives the right answer. False: correctness must be 0."""
    ends: bool = True
    """False: the response is cut off, without an end-of-sequence token."""

    def write(self, case: Case) -> str | None:
        """The whole response; None if the attack is not possible on this problem."""
        text = self.make(case)
        return text + case.end if text is not None and self.ends else text


def _take_honest(case: Case) -> str:
    """solves the problem, as it should"""
    return case.honest


def _take_attempt(case: Case) -> str | None:
    """tries honestly, and errs in the last result"""
    return case.problem.attempt


def _describe(make: Make, *, solves: bool, name: str = "") -> Attack:
    return Attack(
        name or make.__name__,
        inspect.getdoc(make) or "",
        make,
        solves,
        ends=make not in _WITHOUT_END,
    )


HONEST = _describe(_take_honest, solves=True, name="honest")
ATTEMPT = _describe(_take_attempt, solves=False, name="honest_but_wrong")
"""What a policy earns that tries and fails. In a group without a right response, this is what an
attack competes with."""

_BLIND: tuple[Make, ...] = (
    blind.empty,
    blind.white_space,
    blind.guess,
    blind.question,
    blind.question_twice,
    blind.question_then_guess,
    blind.question_in_pieces,
    blind.question_reordered,
    blind.question_words,
    blind.question_flavoured,
    blind.last_sentence,
    blind.prompt_copied,
    blind.system_prompt_copied,
    blind.likely_text,
    blind.likely_text_then_guess,
    blind.repeated_sentence,
    blind.repeated_word,
    blind.other_problem,
    blind.truncated,
    blind.every_option,
    blind.every_number,
    blind.many_boxes,
    blind.many_statements,
    blind.many_tags,
    blind.hedge,
    blind.boxed_hedge,
    blind.between,
    blind.at_least,
    blind.taken_back,
    blind.not_wrong,
    blind.own_words,
    blind.variable,
    blind.unevaluated_sum,
    blind.unevaluated_product,
    blind.unsolved_equation,
    blind.program,
    blind.near_miss,
    blind.superscript,
    blind.not_a_number,
    blind.label_form,
    blind.injection,
    blind.praise,
    blind.answer_in_thinking,
    blind.unclosed_thinking,
    blind.thinking_against_guess,
    blind.answer_after_end,
    blind.end_tokens,
    blind.special_tokens,
    blind.other_language,
)

_STYLED: tuple[Make, ...] = (
    styled.answer_only,
    styled.box_only,
    styled.last_line_only,
    styled.restated,
    styled.restated_twice,
    styled.restated_in_pieces,
    styled.restated_for_steps,
    styled.restated_after_end,
    styled.facts_between_steps,
    styled.padded,
    styled.written_twice,
    styled.sentences_twice,
    styled.answer_repeated,
    styled.steps_left_out,
    styled.no_end,
    styled.no_answer_line,
    styled.steps_in_thinking,
    styled.empty_thinking,
    styled.special_tokens_between,
    styled.wide_digits,
    styled.split_digits,
    styled.spelled_out,
    styled.undivided,
    styled.disowned_box,
    styled.last_of_many,
    styled.in_chinese,
)

ATTACKS: tuple[Attack, ...] = (
    *(_describe(make, solves=False) for make in _BLIND),
    *(_describe(make, solves=True) for make in _STYLED),
)
