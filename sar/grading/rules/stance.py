"""Tells whether a text stands by an answer that it names: it may deny it, doubt it or take it back.

The choice, boolean and exact graders share these words. Texts have their Unicode normalised, and
apostrophes may be missing (`isnt`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Reading more than this after an answer is not worth its time.
_MAX_FOLLOWING_CHARS = 4000


def any_of(*alternatives: str) -> str:
    """Joins parts of a pattern, each with alternatives, to a group of them all."""
    return f"(?:{'|'.join(alternatives)})"


NOT = (
    r"(?:not|never|no longer|cannot|neither|nor"
    r"|(?:is|are|was|were|do|does|did|ca|wo|would|could|should|has|have|had|must|need|ai)n'?t"
    r"|\\(?:neg|lnot|not|ne|sim|overline|bar|cancel|[xb]cancel|sout)\b\s*\{?|[¬~≠∉⊄!])"
)
"""A negation, as a pattern."""

_DISBELIEVING = any_of(
    r"by no means|in no way|under no circumstances|(?:anything|everything|nothing|all|none) but",
    r"anything (?:other|except)|far from|nowhere near|hardly|barely|scarcely|rarely|seldom",
    r"(?:opposite|contrary) of|avoid\w*|refus\w+|reject\w*|den(?:y|ies|ied)|disagree\w*",
    r"(?<!no )(?<!without )(?<!without a )doubt\w*",
    r"dispute\w*|distrust\w*",
)
DENYING = any_of(
    _DISBELIEVING,
    r"except(?: for)?|besides|apart from|other than",
    r"without|against|skip\w*|steer\w* clear of|(?:stay|keep)\w* away from|beware(?: of)?",
    r"rul(?:e[sd]?|ing) out|eliminat\w+|exclud\w+|discard\w*|dismiss\w*|disregard\w*|ignor\w+",
)
"""Words that deny what follows them at once, as a pattern."""

PREFERRING = r"(?:rather than|instead of|unlike|(?:as )?opposed to)"
"""Words that deny what follows them in favour of something else, as a pattern."""

# A judgement on choosing: `it would be a mistake to pick`, `nobody would say`, `the trap is`.
_CONDEMNING = re.compile(
    r"\b"
    + any_of(
        _DISBELIEVING,
        r"mistake\w*|foolish|silly|absurd|ridiculous|crazy|insane|lie|lying|unlikely|impossible",
        r"nobody|no one|none|no (?:way|sane|reason|chance|sense|person|student|model)|few",
        r"(?:some|many|most|others|people|students)(?:\s+\w+){0,2}"
        r"\s+(?:think|believe|say|argue|choose|pick)",
        r"(?:one|you) (?:may|might)|tempt\w+|traps?|distractors?|decoys?|bait|worst|worse|least",
        r"runner-up|second[- ]best|pretend\w*|jok(?:e|ing)|sarcas\w+|mis(?:lead|led|tak|read)\w*",
        r"fools?|idiots?|stupid|naive|careless|wrongly|incorrectly|falsely",
        r"(?:wrong|incorrect|false|bad|poor|untrue|not (?:true|right|correct))"
        r"\s+(?:answers?|choices?|options?|picks?|ones?|letters?|to|that)",
    )
    + r"\b|\b(?:wrong|incorrect|false)\W*\Z",
    re.IGNORECASE,
)
# `I would never say that it is`, `it is not the case that`
_DISOWNED = re.compile(
    rf"(?<![\w'\\]){NOT}(?:\s+\w+){{0,4}}?\s+(?:think|believe|say|claim|argue|choose|pick|select|go"
    r"|conclude|call|consider|the case|true|correct|right|mean|sure|convinced)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(rf"(?<![\w'\\]){NOT}(?!\w)", re.IGNORECASE)
# `There is no doubt that` is certain.
_CERTAIN = re.compile(
    r"\b(?:no|without|beyond)(?: a| any)?(?: reasonable)? doubts?\b", re.IGNORECASE
)
# `the option that does not follow is`: the negation belongs to the description.
_RELATIVE = re.compile(
    rf"\b(?:that|which|who)\s+(?:(?:is|are|was|were|do|does|did|can|could|has|have|would|will)\s+)?"
    rf"(?:{NOT})(?!\w)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[;:—–,]|\s-\s|\b(?:but|so|thus|hence|therefore|and|because|since|while|although|though|whereas"
    r"|yet|however|leaving|which leaves)\b",
    re.IGNORECASE,
)
# Supposes an answer, and does not give it: `if B were true`.
_SUPPOSING = re.compile(
    r"\b(?:if|unless|suppos\w+|assum(?:e|ing)|imagine|were|whether|pretend\w*|let'?s say|wonder\w*)"
    r"\b",
    re.IGNORECASE,
)
# Concedes it, up to the next comma: `although B is right`.
_CONCEDING = re.compile(r"\b(?:although|though|while|whereas|even if)\b[^,;]*\Z", re.IGNORECASE)
# `if it barked`, but not `if I had to choose`, which conditions nothing.
_IF = r"\bif\s+(?!(?:i|we|you|asked|forced|pressed|anything|so|necessary)\b)"
_CONDITIONED = re.compile(_IF, re.IGNORECASE)
_WOULD_BE = re.compile(r"(?:\bwould|'d)\s+(?:then\s+)?be\b", re.IGNORECASE)
_CONDITION = re.compile(rf"[^\w,.;:\n]*\s{_IF}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[)\"'*]*\s+(?=[A-Z\ue000(\"'*_\[$\\])|\n+")
_YES = re.compile(r"\W*(?:yes|yeah|yep|correct|indeed|right)\b", re.IGNORECASE)
# Takes an answer back: `Actually no`, `Scratch that`, `No, that's wrong`, `Just kidding`.
_RETRACTION = re.compile(
    r"\W*(?:(?:hmm+|oh|oops|wait|sorry|actually|well|on second thought|but|or)\W+)*"
    + any_of(
        r"(?:no|nope|not)\W*$|(?:no|nope)\W+(?:wait|that|it|this|i|actually|sorry|not)\b",
        r"not really\b",
        r"scratch that|never ?mind|just kidding|(?:i'?m |only |just )*joking",
        r"none of (?:the above|these|them)|correction\b|ignore (?:that|this|the)|disregard",
        r"i take (?:that|it|this) back",
        r"(?:i|we) (?:was|were|am|made|have made) (?:wrong|mistaken|an? (?:error|mistake))",
        r"(?:that|this|it)(?:'?s| is| was| must be| would be| seems| looks)? "
        r"(?:actually |clearly |just |also )*"
        r"(?:wrong|incorrect|not (?:right|correct|true|it|the)|false|a (?:lie|mistake|joke))"
        r"(?!\s+(?:that|to|because|for)\b)",
        r"(?:that|this|it) (?:isn'?t|wasn'?t|is not|cannot be|can'?t be) "
        r"(?:right|correct|true|it|the)",
    ),
    re.IGNORECASE,
)
# Between two answers, says why the second replaces the first.
_CHANGE = re.compile(
    r"\b(?:wait|actually|no|nope|hold on|hmm+|oops|sorry|correct(?:ion|ing)|instead"
    r"|but(?! also)|however"
    r"|scratch|mis(?:take|taken|read|understood)|reconsider\w*|re-?(?:check|read|think|evaluat)\w*"
    r"|reflection|second thought|initially|at first|first thought|changed? my mind|i mean|wrong"
    r"|not|so|thus|hence|therefore|conclu\w+|overall)\b|n't\b",
    re.IGNORECASE,
)
_MIN_REASONING_WORDS = 12
_STRUCK = re.compile(
    r"~~[^~\n]{1,200}~~|<(s|del|strike)>[^<\n]{1,200}</\1>|(?:\w[\u0335-\u0338])+"
    r"|\\(?:[bx]?cancel|sout|st)\s*\{[^{}\n]{1,200}\}",
    re.IGNORECASE,
)


def remove_struck(text: str) -> str:
    r"""Removes text that is struck out: `~~B~~`, `<del>B</del>`, `\cancel{B}`."""
    return _STRUCK.sub(" ", text)


def split_sentences(text: str) -> list[str]:
    """Splits a text into sentences and lines."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def split_following(text: str) -> list[str]:
    """Returns the sentences that follow an answer, as many as are worth reading."""
    return split_sentences(text[:_MAX_FOLLOWING_CHARS])


def get_last_clause(text: str) -> str:
    """Returns what a text says after its last comma, `but`, `so` and the like."""
    return _CLAUSE.split(text.rstrip(" :=*_([\"'$\ue000"))[-1]


def is_denied(before: str) -> bool:
    """Whether the words before an answer, in its sentence, deny it: `I do not think that it is`."""
    clause = _RELATIVE.sub(" ", get_last_clause(_CERTAIN.sub(" ", before)))
    return bool(_NEGATED.search(clause) or _CONDEMNING.search(clause))


def is_condemned(before: str) -> bool:
    """Whether the words before an answer speak against it, by more than a `not`."""
    clause = get_last_clause(_CERTAIN.sub(" ", before))
    return bool(_CONDEMNING.search(clause) or _DISOWNED.search(clause))


def is_supposed(before: str) -> bool:
    """Whether the words before an answer only suppose or concede it: `if it is`, `while it is`."""
    clause = get_last_clause(before)
    return _SUPPOSING.search(clause) is not None or _CONCEDING.search(before) is not None


def is_conditional(before: str, after: str) -> bool:
    """Whether an answer holds on a condition only: `If it barked, it would be B`, `B if it barks`.

    `If we look closely, the answer is B` is no condition.
    """
    condition = _CONDITIONED.search(before)
    is_governed = condition is not None and _WOULD_BE.search(before, condition.end())
    return bool(is_governed or _CONDITION.match(after))


def is_question(sentence: str, following: str) -> bool:
    """Whether a sentence asks, and the next one does not say yes."""
    return sentence.rstrip(" *_\"')").endswith("?") and not _YES.match(following)


def takes_back(sentence: str) -> bool:
    """Whether a sentence takes back the answer before it."""
    return _RETRACTION.match(sentence) is not None


def changes_mind(text: str) -> bool:
    """Whether a text between two answers leads from the first to the second.

    Otherwise they stand side by side, and neither of them is the answer.
    """
    num_words = len(re.findall(r"[^\W\d_]{2,}", text))
    return num_words >= _MIN_REASONING_WORDS or _CHANGE.search(text) is not None


def pair_with_next(sentences: list[str]) -> Iterator[tuple[str, str]]:
    """Returns each sentence with the one after it, the last one with an empty text."""
    return zip(sentences, [*sentences, ""][1:], strict=True)
