"""Words around a value that change it or take it back: `half of 73`, `73 dozen`, `73 is wrong`.

A value next to such words is not the answer. No list of harmful words is complete. So the words in
front of a stated value must also be known to be harmless, such as `She has` and `x =`.

The patterns search at most 100 characters before or after the value.
"""

from __future__ import annotations

import re

_WINDOW = 100

_COUNT = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty"
    r"|hundred|thousand)"
)
_PART = (
    r"(?:thirds?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?"
    r"|hundredths?|thousandths?)"
)
_MARKUP = r"[\s$*_`\"'(\[{]|\\(?:text\w*|math\w*|left|[(\[])"

# Before a value. Each group with an example:
# `not 73`, `anything but 73`, `that's wrong: 73` is a correction and not meant.
_NEGATION = (
    r"not|\w*n't|never|cannot|nor|neither|without|no|non|nobody|no one|none|hardly|barely"
    r"|scarcely|(?:any|every|all)\w*(?:\s\w+)? (?:but|except)|(?:far|away) from|nowhere near"
    r"|except|excluding|other than|rather than|instead of|unlike"
    r"|(?:avoid|exclud|reject|den[yi]|doubt|lack|miss)\w*"
    r"|rul\w+ out|(?:impossible|unlikely|untrue)(?: that)?"
    r"|(?<!that's )(?<!that is )(?<!this is )(?<!was )(?:wrong|incorrect|false|mistaken)(?:ly)?"
    r"(?: \w+)?:?|pas|nicht|kein\w*|jamais|nunca"
)
# `less than 73`, `almost 73`
_COMPARISON = (
    r"(?:more|less|fewer|greater|smaller|larger|bigger|higher|lower|longer|shorter|older|younger"
    r"|faster|slower) than|at (?:the )?(?:most|least|max|min)|up to|over|under|below|above|beyond"
    r"|past|(?:exceed|surpass|outnumber|approach)\w*|top(?:s|ped)|within(?: \S+ of)?|almost|nearly"
    r"|near|(?:close|closer|next) to|(?:short|shy|upwards?|in excess) of|until|till|towards?"
    r"|between|less|moins de|plus de|menos de|m[aá]s de|weniger als|mehr als|meno di|pi[uù] di"
)
# `half of 73`, `100 minus 73`, `the number after 73`
_ARITHMETIC = (
    r"half|halv\w+|doubl\w+|twice|thrice|tripl\w+|quadrupl\w+|squar\w+|cub(?:e|es|ed|ing)|roots?"
    r"|factorial|reciprocal|inverse|negative|opposite|negation|complement|log(?:arithm)?"
    r"|multiples? of|divisors?|factors?|powers? of|digits? of|predecessor|successor|percent"
    r"|per cent|times|plus|minus|add(?:ing)?|(?:subtract|multipl|divid)\w*|mod(?:ulo)?|dozen"
    r"|(?:number|integer|one|value|just|right) (?:after|before|following|preceding)"
    rf"|quarters?|{_PART}|moiti[eé]|mitad|h[aä]lfte|metade|met[aà]|halb\w*|doble|doppelt\w*"
)
_OPERATOR = (
    r"(?:%|\}|\d\s*/\s*\d+)\s*of|[+/^<>≠-]|(?<=[\d)}}])\s?\*(?!\*)"
    r"|\\(?:neq?|not|times|cdot|div|pm|mp|lt|gt|le|ge|leq|geq|sqrt)\s*"
)
# What may stand between such words and the value: `not equal to $73`.
# `The answer plus one is 73`
_CHANGED_ANSWER = (
    r"(?:answer|result)\s+(?:plus|minus|times|divided|multiplied|increased|decreased|squared"
    r"|doubled|halved|tripled)\b[^.\n]{0,30}?\s(?:is|equals|gives|makes)\s*:?"
)
_FILLER = (
    rf"(?:{_MARKUP}|\b(?:of|than|to|as|like|the|an?|that|this|its|value|number|integer|quantity"
    r"|amount|total|sum|figure|equal|exactly|precisely|only|just|about|approximately|around|roughly"
    r"|quite|really|even|by|de|del|von|der|di|da)\b)*\Z"
)
_NEGATION_FILLER = (
    r"(?:\s+(?:be|been|have|has|get|gets|got|think|believe|say|says|claim|include|including|exceed"
    r"|possibly|ever|yet|necessarily|it|it's|is|are|was|answer|the case|true|that|es|est|ist))*"
)
_CHANGED_BEFORE = re.compile(
    rf"(?:(?<![\w'])(?:{_NEGATION}){_NEGATION_FILLER}|\b(?:{_COMPARISON}|{_ARITHMETIC}|{_CHANGED_ANSWER})|{_OPERATOR})"
    rf"{_FILLER}",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(rf"(?<![\w'])(?:{_NEGATION})(?:\s+be)?{_FILLER}", re.IGNORECASE)
# Before the words `answer is 73`: `I don't think the`, `half the`.
_STATEMENT_DENIED = re.compile(
    rf"(?<![\w'])(?:{_NEGATION}|{_ARITHMETIC}|bound)(?:\s+(?:think|believe|say|that|true|so|of|for|on"
    r"|the|my|this|final|correct|right|case|be|is|sure|mean|means))*[\s*_]*\Z",
    re.IGNORECASE,
)

# After a value.
_WRONG = (
    r"(?:wrong|incorrect|false|untrue|impossible|mistaken|invalid|off|unlikely|too \w+|a \w+ guess"
    r"|(?:be )?(?:excluded|ruled out|eliminated|rejected)|one of|(?:one|an?) (?:possib\w+|option"
    r"|candidate|guess|estimate|(?:lower|upper) bound))"
)
_IS = r"(?:is|was|are|were|can|would be|must be|seems?|looks?|sounds?)"
_IS_NOT = (
    r"(?:(?:is|was|does|would|could|can|should|will|has)\s+(?:\w+ly\s+)?(?:not|never)"
    r"|(?:is|was|does|would|could|ca|should|wo|has)n't|cannot|fails)\b"
)
_ADVERB = r"(?:(?:\w+ly|also|just|still|quite|simply|of course)\s+)*"
_RIGHT = (
    r"(?:\s+(?:be|the|an|my|our|quite|really|final|correct|right))*\s*(?:(?:answer|result|solution"
    r"|right|correct|true|valid|possible|it|so|enough|work|fit)\b|$|[.,;!?])"
)
_TERM = rf"(?:[$\\]?\d|{_COUNT}\b|[a-z]\b|that\b|this\b|it\b|itself\b|half\b|twice\b|double\b)"
# Up to two words that the value counts: `73 apples or so`.
_COUNTED = r"(?:\s+(?!or\b|and\b|is\b|than\b|more\b|less\b)[a-z]+\b){0,2}?\s*"
# After `or`: what makes it a list of numbers, and no remark such as `or so`.
_NO_LIST = r"(?!,?\s+equivalently|\s*(?:[a-z]\s*=\s*)?[-$\\({\[]*\s*[\d\\])"
_CHANGES_AFTER = (
    # `73 hundreds`, `73-ish`, `73rd root of`, `73's successor`
    rf"(?:(?:hundred|thousand|million|billion|score)s|score|gross|lakh|crore|half|halves|{_PART})\b",
    r"'s\s|-?ish\b|fold\b|-?(?:st|nd|rd|th)\s+(?:root|power|part|of|prime|term|\w+\s+number)\b",
    # `73 squared`, `73 times 2`, `73 percent of 50`
    r"(?:,\s*)?(?:squared|cubed|factorial|doubled|tripled|halved|modulo|mod|raised|reversed)\b",
    r"backwards?\b",
    r"(?:mirrored|inverted|upside|split|in half|without\s+(?:the|its))\b",
    r"with\s+(?:(?:the|its|both)\s+)?digits\b|to the\s+(?:\w+\s+)?power\b",
    r"(?:increased|decreased|reduced)\s+by\b",
    rf"(?:times|over|less)\s+{_TERM}|times\s+as\s+(?:many|much)\s+as\s+\W?\d",
    rf"(?:percent|per cent|%)\s*of\s+(?:(?:the|an?|all|its?)\s+(?:\w+\s+)?)?{_TERM}",
    # `73 in octal`, `73 base 8`
    r"(?:in\s+)?(?:octal|binary|hex\w*|\(?base\b(?!\s*(?:10|ten)))",
    # `73 and a half`, `73 or so`, `73 too high`
    r"and\s+(?:an?|one|some|then some|change|counting|up|more|above|below|over|under)\b",
    rf"and\s+{_COUNT}[\s-]+(?:half|halves|quarters?|{_PART})\b",
    rf"[,;(]\s*or\b{_NO_LIST}|too\s+\w+|off\b|upwards?\b|tops\b|give or take\b",
    rf"{_COUNTED}(?:at (?:most|least|best|worst)\b|or\b{_NO_LIST}"
    r"|(?:plus|minus|divided|multiplied)\b|(?:short|shy)\s+of\b"
    rf"|away\s+from\s+{_TERM}|(?:more|less|fewer|greater|higher|lower|larger|smaller|longer|shorter"
    rf"|older|younger)\s+than\s+{_TERM})",
    # `73 when n is odd`, `73 if n > 2`
    r"[\s,(]*(?:when|whenever|if|provided|for)\s+(?:that\s+)?\$?[a-z]\$?\s*(?:is\b|[<>]|\\(?:[lg]eq?|neq?)\b)",
    # `73, etc.`, `73 among others`
    r"[\s,]*(?:etc\b|among\b|and (?:others|so on|so forth|the like|the rest)\b|,\s*(?:\.\.|…))",
    # `73 is wrong`, `73 is not the answer`, `73? No.`, `73, which is wrong`
    rf"{_COUNTED}(?:{_IS}\s+{_ADVERB}{_WRONG}\b|{_IS_NOT}{_RIGHT})",
    rf"{_COUNTED}(?:are|were)(?: not|n't){_RIGHT}",
    rf"\s*{_IS_NOT}",
    r"[\s,;:(.?!–—-]*(?:(?:maybe|probably|certainly|definitely|or)\s+)?(?:not|no|nope|wrong"
    r"|incorrect|false|untrue|(?:just\s+)?(?:kidding|joking)|jk|never\s?mind|but (?:no|not)|unless"
    r"|if not)(?:\s+(?:really|quite|exactly|right|correct|true|at all))?[\s*_$]*(?:$|[.!?,;)])",
    r"[\s,;(–—-]*(?:which|that|and|but)\s+(?:(?:that|this|it|which|i know|we know|of course"
    rf"|clearly)\s*)*(?:'s|is|was|would be|must be)\s+{_ADVERB}(?:{_WRONG}|not{_RIGHT})",
)
_CHANGED_AFTER = re.compile(rf"[\s$*_`\"')\]}}]*(?:{'|'.join(_CHANGES_AFTER)})", re.IGNORECASE)
# `73 dozen` is a scale, but `Claire will eat 25 dozen eggs` answers "how many dozen"
# (second-m2-gsm8k-026).
_DOZENS = re.compile(r"\W*dozens?\b(?P<eggs>\s+[a-z])?", re.IGNORECASE)
_VERB = re.compile(
    r"\w\s+(?:(?:will|can|must|should)\s+\w+|has|have|had|\w{3,}(?:s|ed))\b", re.IGNORECASE
)
# `73 out of 100`, `73 per 74`: a ratio, unless a noun stands after the value.
_RATIO_AFTER = re.compile(
    r"[\s$*]*(?:out of|of|in|per|for|from|by|with|at|on|within|than|after|before)\s+\$?\d[\d.,]*\s*"
    r"(?:$|[.,;)])",
    re.IGNORECASE,
)

# Harmless words before a value, and between these and the value.
_ADVERBS = re.compile(
    r"(?:\b(?:exactly|only|just|about|approximately|approx\.?|around|roughly|precisely|definitely"
    r"|probably|likely|certainly|surely|simply|still|now|then|also|indeed|clearly|altogether"
    r"|therefore|an?|the|all|total|overall|whopping|in total|at a rate of|another|there|each|i\.e\."
    rf"|US)(?!\w)|{_MARKUP}|[,~≈]|\\(?:approx|sim|simeq)\b)*\Z",
    re.IGNORECASE,
)
_LINK_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        is are was were be been am being equal equals to of that who so thus hence therefore then
        finally but because since means i.e has have had having get gets got give gives
        gave make makes made take takes took cost costs paid pay pays sold sell bought buy ate eat
        drank spend spent need left leave leaves save earn use ran won lost read wrote drove rode
        grew kept held sent built caught found met put cut hit yield remain find obtain contain
        receive us him her them me you it he she they we in at on for by after with answer answers
        result results total sum difference product quotient average mean median profit price area
        volume perimeter length width height radius distance speed time age day week month year page
        case number value maximum minimum max min
        """,
    )
)
_AUXILIARIES = frozenset(
    re.findall(r"\w+", "will can must should would could may does did to i we you they who")
)
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")


def is_changed_before(text: str) -> bool:
    """Whether the words that a text ends with change the value that follows."""
    return _CHANGED_BEFORE.search(text[-_WINDOW:]) is not None


def is_denied_before(text: str) -> bool:
    """Whether the words that a text ends with deny what follows: `not`, `rather than`."""
    return _DENIED_BEFORE.search(text[-_WINDOW:]) is not None


def denies_statement(text: str) -> bool:
    """Whether the words before `answer is` take the statement back: `I don't think the`."""
    return _STATEMENT_DENIED.search(text[-_WINDOW:]) is not None


def is_changed_after(text: str, lead: str = "") -> bool:
    """Whether the words that a text starts with change the value before them.

    Args:
        lead: the words in front of the value.
    """
    window = text[:_WINDOW]
    dozens = _DOZENS.match(window)
    if dozens and not (dozens["eggs"] and _VERB.search(lead)):
        return True
    return bool(_CHANGED_AFTER.match(window) or _RATIO_AFTER.match(window))


def is_harmless_lead(lead: str) -> bool:
    """Whether the words before a value only introduce it: `She has exactly`, `x =`."""
    lead = lead[-_WINDOW:].rstrip()
    if is_changed_before(lead):
        return False
    adverbs = _ADVERBS.search(lead)
    core = lead[: adverbs.start()].rstrip() if adverbs else lead
    if not core or core.endswith((":", "=", "-")):
        return True
    words = _WORD.findall(core)
    if not words or not core.endswith(words[-1]):
        return False
    last = words[-1].casefold()
    if last in _LINK_WORDS or re.search(r"'(?:s|re|ve|ll|d)$", last) or len(last) == 1:
        return True
    if len(words) == 1:
        return bool(words[0][0].isupper())  # `Total 73`, `Day 73`
    if words[-2].casefold() in _AUXILIARIES:
        return True
    return last.isascii() and len(last) > 3 and last.endswith(("s", "ed"))
