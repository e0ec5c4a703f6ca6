"""Finds the truth values that a sentence states, and whether it means them.

A negated value counts as its opposite: `not true`, `far from true`. A value that the sentence holds
back counts as unclear: `half true`, `true or not`, `it would be wrong to say true`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sar.grading.rules import stance
from sar.grading.rules.stance import any_of

_MAX_BEFORE_CHARS = 200
_MAX_AFTER_CHARS = 100

_VALUE = re.compile(r"(?<!\w-)\b(true|false|yes|no|untrue)\b(?!-\w)", re.IGNORECASE)
# After a `no` that is a determiner: `no cats are`, `No problem` (boolean-no_answer-006), `No. 5`.
_NOT_A_VERDICT = re.compile(r"\s+(?:[a-z]+|\d)|\.\s*\d")
# After a `no` that is an answer: `No because`, `no it is not`.
_IS_VERDICT = re.compile(
    r"\s+(?:because|since|as|is|it|that|the|this|he|she|they|we|based|given|and|or|but"
    r"|unless)\b"
)
_FILLERS = (
    r"(?:(?:be|at all|in fact|really|actually|necessarily|logically|always|a|an|the|for)\s+)*"
)
_NEGATING = any_of(
    stance.NOT,
    r"by no means|in no way|far from|nowhere near|anything but",
    r"(?:the )?(?:opposite|contrary|negation|reverse) of",
)
# Right before a value: `not necessarily true`, `isn't true`, `far from being true`.
_NEGATED = re.compile(rf"(?<![\w'\\])({_NEGATING})\s*(?:being\s+)?{_FILLERS}\Z", re.IGNORECASE)
# Before that: `It is not the case that it is true`, `I do not think that the statement is true`.
_NEGATED_CLAUSE = re.compile(
    r"(?<![\w'\\])"
    + any_of(
        rf"{stance.NOT}\s+(?:\w+\s+){{0,2}}?(?:think|believe|the case|true|correct|right|so)",
        r"false|untrue|incorrect|wrong|(?<!no )(?<!without )doubt\w*|den(?:y|ies|ied)",
    )
    + r"\s+(?:that\s+)?"
    r"(?:it|this|that|the (?:statement|claim|conclusion|answer)|[\"'][^\"']*[\"'])"
    r"\s*(?:is|'s|was)\s+\Z",
    re.IGNORECASE,
)
# `half true`, `not entirely true`, `hardly true`
_HALF = re.compile(
    any_of(
        r"half|part(?:ly|ially)|mostly|somewhat|almost|nearly|sort of|kind of|less than|less|more",
        r"more or less|semi|quasi|hardly|barely|scarcely|rarely|seldom|sometimes|supposedly",
        r"allegedly|seemingly",
        rf"{stance.NOT}\s+"
        r"(?:entirely|completely|quite|fully|totally|exactly|wholly|strictly|100 ?%)",
        r"(?:avoid|reject|skip|refus|dismiss)\w*(?:\s+to)?"
        r"(?:\s+(?:say|choose|answer|saying|answering))?",
        r"(?:except|besides|other than|rather than|instead of|unlike|without|neither|either)",
    )
    + r"[\s-]+(?:a|an|the|being|both)?\s*\Z",
    re.IGNORECASE,
)
# `It would be wrong to say true`, `I cannot claim that it is true`, `nobody would say yes`
_NOT_SAID = re.compile(
    rf"(?<!\w)(?:{stance.NOT}|wrong|incorrect|mistake\w*|foolish|silly|absurd|lie|lying|impossible"
    r"|unlikely|refus\w+|avoid\w*|tempt\w+|nobody|no one|few|hard|difficult)\s+(?:[\w']+\s+){0,4}?"
    r"(?:say|saying|said|claim|call|conclude|state|answer|choose|chose|pick|go|consider|argue|mark"
    r"|label|prove[nd]?|tell|known?|determined?|shown|guaranteed|certain)\b[^.;,]*\Z",
    re.IGNORECASE,
)
# `true or not`, `true only if`, `true to some extent`, `"True" would be wrong`
_HELD_BACK = re.compile(
    r"[\"'*)\s]*"
    + any_of(
        r"\s(?:or not|or otherwise|or is it|ish|at times|sometimes"
        r"|in (?:a|some) (?:way|sense|cases?)|to (?:some|an|a certain) extent|up to a point"
        r"|half the time|in part|for (?:some|most)|only (?:if|when)|unless|if\b)",
        r"\s(?:is|was|would be|seems|looks|must be|has to be)\s+"
        r"(?:clearly |definitely |also |simply )*"
        r"(?:not|wrong|incorrect|a mistake|out|ruled out|impossible|unlikely)",
        r"\s(?:isn'?t|wasn'?t|cannot be|can'?t be)\b",
        r"\sis (?:what|how) (?:an?|some|many|most|people|everyone|one|you)\b",
        r"\s(?:is|seems|looks|sounds) (?:\w+ )?(?:tempting|attractive|appealing)\b",
        r"[\s,;:–—-]+not\W*\Z|\s*\((?:not\W*\)|not really|just kidding|wrong|half|partly|sort of)",
    ),
    re.IGNORECASE,
)
# Only such words between two opposite values: `true and false`, `yes, but also no`.
_JOINT = re.compile(
    r"(?:[\W_\d]|\b(?:and|or|xor|not|unless|if|otherwise|on|other|hand|also|maybe|perhaps|possibly|but|yet|then|both|at|same|time|it|is|it's"
    r"|could|might|may|be|as|well|vs|versus|nor|equally|partly|the|a|statement|answer|claim|either"
    r"|option|else|in|way|some|sense|b|for|others|more|less|than)\b)*",
    re.IGNORECASE,
)
# Before a value that is only supposed, wanted or to be shown: `Suppose that it is`.
_SUPPOSED = re.compile(
    any_of(
        r"\b(?:if|suppos(?:e|ing)|assum(?:e|es|ing)|imagine|whether|pretend\w*)\b",
        r"\b(?:want|wants|wanted|wish|wishes|hope|hopes|hoping|would like)\b",
        r"(?:^|\b(?:need|tr(?:y|ies)|trying|asked|goal is|aim is|task is)\s+)\W*"
        r"to (?:be )?(?:prove[dn]?|shown?|verify|check|test|decide|determine)\b",
        r"\b(?:supposed|assumed) (?:that|to)\b|\b(?:may|might|could) (?:seem|look|sound|appear)\b",
        r"\btoo \w+ to be\s*$",
    ),
    re.IGNORECASE,
)
_HEADED = re.compile(
    r"(?:^|\n)\W*(?:to (?:prove|show|verify|check)|goal|suppose|assum(?:e|ption)|hypothesis"
    r"|options|choices|candidates|possible \w+)(?:\s+are)?\W*:[^.;,]*\Z",
    re.IGNORECASE,
)
# `it may be true`, `nobody says it is true`
_DOUBTED = re.compile(
    r"\b(?:may|might|could)(?:\s+(?:well|also|still|possibly|in fact))?\s+be\s+(?:a\s+|the\s+)?\Z"
    r"|\b(?:nobody|no one|no-one|none|few)\b(?:\s+\w+){0,3}?\s+"
    r"(?:says?|said|thinks?|thought|claims?|claimed|believes?|believed)\b",
    re.IGNORECASE,
)
# At a sentence's start, before a noun: `True love waits`, `True enough`.
_ADJECTIVE = re.compile(
    r"\s+(?!(?:because|since|as|is|and|or|but|nor|for|given|by|based|per|that|in|on|at|from|due|so|if"
    r"|when|under|about|according|here|it|the|this|these|we|he|she|they|i|answer|statement|claim"
    r"|conclusion|option|with|without|only|unless|not|to|of|then|therefore|thus|hence|is|was|follows"
    r"|indeed|a|an|all|every|no|there|while|though|although|after|also|via|through|would|will|must"
    r"|cannot|can|seems|looks|has|again|true|false|yes|xor|versus|vs|maybe|perhaps|else|otherwise)\b)[a-z]+"
)
_REASON = re.compile(r"\s(?:because|since|as|while|if|so that)\s|;|—", re.IGNORECASE)
# A sentence that is only a value, perhaps as a listed option: `False.`, `B) False`.
_MAX_FRAGMENT_CHARS = 200
_FRAGMENT = re.compile(
    r"[\W_]*(?:(?:option\s*)?[a-e\d][).:]\s*)?[\W_]*(?:or|and|maybe|then|also)?[\W_]*"
    r"(?:(?:it|this|the (?:statement|answer|claim))(?:'s| is)\s+)?[\W_]*"
    r"(?:true|false|yes|no)[^\w?]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Truth:
    """A truth value in a sentence."""

    value: bool | None
    """None: the sentence names a value and does not commit to it."""
    start: int
    end: int


def read_sentence(sentence: str) -> Truth | None:
    """Returns what a sentence concludes: its last value before its reason. None: it has no value.

    `It is false because it is true that cats meow` concludes false.
    """
    truths = find_truths(sentence)
    if not truths:
        return None
    end = len(_REASON.split(sentence)[0])
    last = ([truth for truth in truths if truth.end <= end] or truths)[-1]
    return Truth(None, last.start, last.end) if _contradicts(sentence, truths) else last


def find_truths(text: str) -> list[Truth]:
    """Returns the truth values in a text, in order."""
    found = []
    for match in _VALUE.finditer(text):
        word, rest = match[1].casefold(), text[match.end() : match.end() + _MAX_AFTER_CHARS]
        if word == "no" and _NOT_A_VERDICT.match(rest) and not _IS_VERDICT.match(rest):
            continue
        before = text[max(0, match.start() - _MAX_BEFORE_CHARS) : match.start()]
        if _is_no_verdict(before, rest):
            continue
        value = _read_value(word in ("true", "yes"), before.rstrip("\"'*_`($") + " ", rest)
        found.append(Truth(value, match.start(), match.end()))
    return found


def is_held_back(rest: str) -> bool:
    """Whether the words after a value speak against it: ` is wrong`, ` only if`."""
    return _HELD_BACK.match(rest) is not None


def is_fragment(sentence: str) -> bool:
    """Whether a sentence is only a truth value."""
    if not re.search(r"[a-z]", sentence, re.I):
        return True
    # The bound keeps the pattern, which tries many splits of a run of marks, fast.
    return len(sentence) <= _MAX_FRAGMENT_CHARS and _FRAGMENT.fullmatch(sentence) is not None


def _read_value(value: bool, before: str, rest: str) -> bool | None:
    if _HALF.search(before) or _HELD_BACK.match(rest):
        return None
    if negated := _NEGATED.search(before):
        value, before = not value, before[: negated.start()].rstrip() + " "
        if _NEGATED.search(before):  # `not not true`
            return None
    if _NEGATED_CLAUSE.search(before):
        return not value
    clause = stance.get_last_clause(before)
    is_doubted = _DOUBTED.search(f"{clause} ") is not None
    return None if is_doubted or _NOT_SAID.search(clause) else value


def _is_no_verdict(before: str, rest: str) -> bool:
    """Whether a value is only supposed, or describes a noun."""
    if not before.strip(" \t\n\"'*_`($"):
        return _ADJECTIVE.match(rest) is not None
    clause = stance.get_last_clause(before)
    return bool(_SUPPOSED.search(clause) or _HEADED.search(before))


def _contradicts(text: str, truths: Sequence[Truth]) -> bool:
    """Whether a text states opposite values side by side: `true and false`."""
    return any(
        a.value != b.value and _JOINT.fullmatch(text, a.end, b.start) is not None
        for a, b in pairwise(truths)
    )
