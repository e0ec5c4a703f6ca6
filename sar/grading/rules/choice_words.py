"""The words with which a sentence chooses a marked letter, denies it, or offers another beside it.

All patterns are for text from `marks.mark_letters`. In the comments, letters stand for marked ones.
"""

from __future__ import annotations

import re

from sar.grading.rules import stance
from sar.grading.rules.marks import LEAD_IN, MARK, MARKED
from sar.grading.rules.stance import any_of

# What may stand between the words that choose and the letter: `it must be [the option] B`.
_BETWEEN = any_of(
    r"(?:(?:most|more|very)\s+)?(?:correct|right|best|better|likely|options?|choices?|answers?)",
    r"letter|number|label(?:l?ed)?|statement|conclusion|selection|selected|the|a|one|final|my",
    r"just|only|simply|clearly|definitely|certainly|surely|sure|probably|indeed|therefore|thus",
    r"hence|actually|really|obviously|still|then|again|instead|rather|either|both|maybe|perhaps",
    r"possibly|in|fact|for|must|should|would|might|could|to|be|being|is|are|was|it|that|this|us",
    r"with|towards?|namely|as",
)
_FILL = rf"(?:[\s:,>(\[{{\"'*_`$=→⇒✅✔✓☑-]|\b{_BETWEEN}\b)*"
_CHOOSING = any_of(
    r"choose|chooses|chose|choosing|chosen|pick(?:s|ed|ing)?|select(?:s|ed|ing)?",
    r"go(?:ing|es)? with|went with|go(?:ing)? for|settl\w+ (?:on|for)|opt(?:ed|ing)? for",
    r"vot(?:e|ing) for|lean(?:s|ing)?(?: more)?(?: towards?)?|commit(?:ting)? to",
    r"answer(?:s|ed|ing)?|ans|verdict|my (?:pick|choice|guess|vote|bet|selection|final)",
    r"(?:must|has to|have to|got to|should|can only) be|gotta be",
    r"final(?: choice| pick| selection)?|choice|option selected",
)
_CONCLUDING = any_of(
    r"so|thus|hence|therefore|ergo|then|but|means?|implies|leav(?:es?|ing)|left with|elimination",
    r"it(?:'?s| is)|that'?s|is|are|was|be|es|est|ist|corresponds to|matches|leads? to|supports?",
    r"conclude[sd]?|deduce|infer|says?|gives?|get|points? to|confirms?",
    r"only|definitely|clearly|probably|maybe|perhaps",
)
CHOSEN = re.compile(rf"(?<!\w){_CHOOSING}(?!\w){_FILL}{MARKED}", re.IGNORECASE)
"""`I choose B`, `so it must be B`."""

CONCLUDED = re.compile(
    rf"(?:(?<!\w){_CONCLUDING}(?!\w)|[:：→⇒是为]|[-=]>){_FILL}{MARKED}", re.IGNORECASE
)
"""`therefore B`, `which leaves only B`, `→ B`. It chooses only if `ENDS_CLAUSE` follows: `So A
implies C` (second-c2-chatter-114) does not choose A."""

ENDS_CLAUSE = re.compile(
    r"[)\]}\"'*_`$]*\s*(?:$|[.,;:!?)\]}—–(✅-]|"
    + any_of(
        r"because|since|as|due|for|by|which|that|and|or|here|it is|alone|only|instead|over|unless",
        r"but|not|then|if|with|while|although|though|given",
    )
    + r"\b)",
    re.IGNORECASE,
)

_GOOD = any_of(
    r"correct|right|true|valid|best|better|only|logical|appropriate|reasonable|plausible|likely",
    r"final|proper|intended|strongest|obvious|suitable|remaining|natural|accurate|sensible|desired",
    r"sound|supported|entailed|implied|consistent|fitting|possible|sure|clear|single|actual",
    r"expected",
)
_OPTION = any_of(
    r"answer|choice|option|one|solution|conclusion|winner|inference|match|response|fit|pick|it",
    r"selection|statement",
)
_VERY = any_of(
    r"most|more|very|much|also|still",
    r"(?!(?:hard|bare|scarce|rare|on|supposed|alleged|seeming|un)\w*ly)\w+ly",
)
_PRAISE = (
    r"(?!(?:an?\s+(?:possible|plausible|likely|option|choice|answer)|one of|possible|plausible)\b)"
    rf"(?:{_VERY}\s+)*(?:(?:the|our|my|a|an)\s+)?(?:{_VERY}\s+)*(?:{_GOOD}[\s,]+(?:and\s+)?)*"
    rf"(?:(?!only\b){_GOOD}|{_OPTION}|only possib\w+)\b"
)
_SEEMS = any_of(
    r"is|was|seems|looks|appears|sounds|must be|has to be|should be|would be|will be|can be"
)
PRAISED = re.compile(
    rf"{MARKED}[)\]}}\"'*_`$.:]*\s*(?:it is\b"
    r"|(?:(?:clearly|therefore|thus|definitely|really|certainly|then)\s+)?"
    rf"(?:{_SEEMS}\s+(?:to be\s+)?{_PRAISE}"
    r"|(?:follows|fits|works|holds|remains|stands|matches|wins"
    r"|best (?:describes|fits|matches|explains|answers|captures|represents)"
    r"|makes (?:the )?(?:most |more )?sense)\b))",
    re.IGNORECASE,
)
"""`B is correct`, `B must be the best option`, `B follows`, `C it is`."""

SPOILED = re.compile(
    rf"[^.;,]*\b(?:{stance.DENYING}|wrong|incorrect|mistake|false|only if|unless|if)\b",
    re.IGNORECASE,
)
"""After such praise: `B is the right answer to avoid`."""

SEEMS_BUT = re.compile(r".*\b(?:seems|looks|appears|sounds)\b.*,?\s+but\b.*", re.I | re.DOTALL)
"""After such praise: `B seems right, but`."""

_SURE = any_of(
    r"for sure|definitely|obviously|clearly|certainly|surely|of course|indeed|here|please|it is",
    r"final answer|final|alone|only|and nothing else|hands down|without (?:a |any )?doubt|no doubt",
    r"i think|i believe|i guess|i'?d say|probably|maybe|most likely|then|again|instead|too|thanks?",
)
ALONE = re.compile(rf"{LEAD_IN}{MARKED}(?:{_SURE}|\W)*", re.IGNORECASE)
"""A sentence that is only a letter: `(b)`, `**B**.`, `Definitely B!`."""

SEVERAL = re.compile(
    rf"{LEAD_IN}{MARKED}(?:(?:[\s,;.:/&|()\[\]>\"'*_`$+=%\d-]"
    rf"|\b(?:and|or|then|also|maybe|next|finally|plus)\b)+{MARKED})+\W*",
    re.IGNORECASE,
)
"""A sentence that is only letters: `B/A/C/D`."""

DENIAL_SIGN = re.compile(r"[?❌✗✘🚫⛔👎]")

LEADING = re.compile(
    rf"{LEAD_IN}{MARKED}(?:\s*[).:\]}}*_`$\"'—–]|\s*-\s|\s*[(,;!]|…|\s*$"
    r"|\s+(?:because|since|as|due|for|by|which|here)\b)",
    re.IGNORECASE,
)
"""The start of a stated answer: `B) blue`, `B. blue`, `B - blue`, `B because ...`."""

LEADING_TEXT = re.compile(
    rf"{LEAD_IN}{MARKED}\s+(?!"
    + any_of(
        r"is|was|isn'?t|would|could|can|cannot|can'?t|may|might|must|seems?|looks?|appears?",
        r"sounds?|feels?|has|have|had|unless|if|to|as|does|doesn'?t|did|will|won'?t|should|over",
        r"than|except|contradicts?|fails?|be|being",
    )
    + rf"(?!\w))[\w$\\{MARK}]",
    re.IGNORECASE,
)
"""`B blue`: the option's text follows. `B would be wrong` goes on in another way."""

STARTS_LINE = re.compile(
    rf"[\s*_(\[\"'$>#•✅-]*(?:(?:option|choice)\s+)?{MARKED}[*_]*"
    r"(?:\s*\)|[.:]\s|\s-\s|,?\s+(?:because|since|not)\b)",
    re.IGNORECASE,
)
"""A sentence that starts with an option: `B) blue`, `B because`, `B, not C`."""

_BESIDE = any_of(
    r"and|or|then|also|maybe|perhaps|possibly|probably|either|otherwise|unless|if|else|but|not",
    r"it|it's|its|is|was|could|might|may|be|even|with|followed|by|next|options?|choices?",
    r"answers?|alternatively|equally|as|well|versus|vs|the|again|finally|now|i|i'd|say|too|both",
    r"correct|right|just|go|for",
)
STARTS_BESIDE = re.compile(rf"\W*{_BESIDE}\b", re.IGNORECASE)
NEXT = re.compile(
    rf"[\s,;/&|)(\].:\"'…*_`$+>=%\d-]*(?:{_BESIDE}\b[\s,;/().:\"'…*_`$-]*){{0,7}}{MARKED}",
    re.IGNORECASE,
)
"""Right after a letter, brings in another: `or C`, `, then C`, `(or C)`, `unless it is C`."""

DESCRIBES = re.compile(
    rf"\W*(?:the\s+)?(?:options?|choices?|answers?)\W+{MARKED}\W*\s"
    r"(?:is|was|refers|describes|concerns|involves|applies|means|has|does|states|says)\b",
    re.IGNORECASE,
)
ALTERNATIVE = re.compile(
    r"\b(?:or|unless|otherwise|else|alternatively|maybe|perhaps|possibly|might|may|could|if)\b\W*"
    rf"(?:{_BESIDE}\b\W*){{0,6}}{MARKED}",
    re.IGNORECASE,
)
"""The same, anywhere after the letter."""

POSSIBLE = re.compile(
    rf"{MARKED}\)?\s+(?:is|are|could be|might be|may be)\s+(?:(?:also|equally|still)\s+)?"
    r"(?:possible|plausible|likely|acceptable|fine|ok|okay|viable)\b",
    re.IGNORECASE,
)
"""Another letter may be right too: `B is likely but C is possible`."""

COMBINES = re.compile(
    r"\W*(?:(?i:both|all|neither|none|either|only)\b"
    rf"|{MARKED}(?:\W*(?:and|or)?\W*{MARKED})+\W*(?i:only|together)\b)"
)
"""An option's own text that names options: `D) Both A and B`, `D. A and B only`."""

ALSO = re.compile(r"\b(?:also|as well|too|equally|either|alternatively)\b", re.IGNORECASE)
ACCEPTING = re.compile(
    r"\b(?:correct|right|acceptable|fine|possible|works?|valid|true|see|plausible|fits?|ok|okay"
    r"|good|reasonable|justified|argued?|defensible|accepted)\b",
    re.IGNORECASE,
)
"""Together: `C would also be fine`."""

CONTRAST = re.compile(
    r"\b(?:but|however|so|thus|therefore|hence|yet|still|now|finally|whereas|while|leaving)\b", re.I
)

_ONE = rf"[(\[*_\"'`$]{{0,3}}{MARK}[A-Z][)\]*_\"'`$.]{{0,3}}"
_SOME = rf"{_ONE}(?:\s*(?:,|and|or|nor|&|/)+\s*(?:(?:options?|not)\s+)?{_ONE}){{0,25}}"
_WRONG = any_of(
    r"wrong|incorrect|false|invalid|out|not|never|eliminated|excluded|ruled out|untrue|bad|worse",
    r"worst|unlikely|impossible|a mistake|a trap|a distractor|the distractor|no",
)
REJECTED = any_of(
    r"(?:is|are|was|were|can|could|must|does|do|did|cannot|seems?|looks?|would be|will be)\b\s*"
    rf"(?:{_WRONG}\b|n'?t\b|be (?:wrong|false|ruled|incorrect)"
    r"|(?:clearly|also|both|all|simply|just|then|therefore|obviously|definitely|actually|a|an|the)"
    rf"\s+{_WRONG}\b)",
    r"(?:is|are|was|does|do|ca|wo|could|would)n'?t\b|cannot\b|contradicts?\b|fails?\b",
    r"\W*[❌✗✘🚫⛔]|\?\s*(?:no|nope|not)\b|\W*\b(?:not|never)\W*$",
    r"\W*(?:which (?:is|was|would be)\s+)?"
    r"(?:wrong|incorrect|false|not really|(?:just )?kidding|joking|nope)\W*(?:$|[.;)])",
)
"""What rejects the letters before it, as a pattern: `is wrong`, `contradicts`."""

_REJECTING = any_of(
    rf"(?<![\w'\\])(?<!if )(?<!why ){stance.NOT}(?:\s+be)?",
    rf"(?<!\w){stance.DENYING}",
    r"(?<!\w)(?:than|over|wrong|incorrect|non)",
    r"[❌✗✘🚫⛔]",
)
_TO_CHOOSE = any_of(
    r"be|either|options?|choices?|choos\w+|pick\w*|select\w*|say|answer|it|is|the|all of|any of|to",
    r"go|for|with|correct|right|of",
)
RULED_OUT = re.compile(
    rf"{_REJECTING}[\s:]*(?:{_TO_CHOOSE}\s+){{0,4}}{_SOME}"
    rf"|{_SOME}\s*[,:-]?\s*{REJECTED}"
    rf"|(?<!\w){stance.PREFERRING}\s+(?:{_TO_CHOOSE}\s+){{0,4}}{_ONE}(?:\s*(?:and|or)\s+{_ONE})*",
    re.IGNORECASE,
)
"""Letters that a sentence rules out: `not A` (choice-negated_letter-001), `neither A nor C`, `A and
C are wrong`, `C contradicts`."""

UNDONE = re.compile(
    rf"{MARKED}[^.;{MARK}]*\b(?:but|yet|however)\b,?\s+"
    r"(?:they|he|she|that|this|it|everyone|everybody|all of them|most|people)\b"
    r"(?:\s+(?:is|are|was|were|seems?|must be)|'re|'s)\s+(?:\w+\s+)?"
    r"(?:mistaken|wrong|incorrect|misled|fooled|deceived|not (?:right|correct|true))\b",
    re.IGNORECASE,
)
"""A letter that others choose: `Everyone says B, but they are mistaken`."""

TEMPTING = re.compile(
    r"\W*(?:(?:is|was|seems|looks|sounds|may be|might be)\s+(?:\w+\s+){0,2}?"
    r"(?:tempting|attractive|appealing|seductive|(?:trap|distractor|decoy)\b)"
    r"|(?:seems|looks|sounds|may seem|might seem)\s+(?:\w+\s+){1,3}?but\b"
    r"|(?:seems|looks|sounds|may seem|might seem)\s+\w+,\s+but\b)",
    re.IGNORECASE,
)
"""What follows a box in its sentence, and speaks against it: `is tempting, but`."""

INSISTING = re.compile(
    r"(?:cannot|can'?t|can not|couldn'?t) be (?:anything|any \w+) (?:but|other than|except)"
    r"|(?:none|no) other than",
    re.IGNORECASE,
)
"""`It cannot be anything but B` means that it is B."""

REASON = re.compile(r"\s(?:because|since|as|while|although|though|whereas)\s", re.IGNORECASE)
"""Begins a reason or a concession, which chooses nothing: `B, although C is close`
(second-c2-hedge-089)."""

CHANGED_MIND = re.compile(
    r"\b(?:wait|actually|scratch that|correction|i mean|or rather|chang\w+ my mind|sorry|oops"
    r"|on second thought|hold on"
    r"|(?:no|nope)(?=\s*[,.:;!—–-]|\s*$|\s+wait))\b(?:[\s,.:;!—–-]+|$)",
    re.IGNORECASE,
)
"""`A... wait, no, B.` chooses B (choice-change_of_mind-001)."""
