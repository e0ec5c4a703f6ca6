"""Writes the Chinese words around an answer in English, so that one set of rules reads both.

It knows the words that state, change or deny a value (math-chinese-001 to 012), a few of them
Japanese. It writes any other
run of characters as `Word`: a word before a number, a unit after it.
"""

from __future__ import annotations

import re

_HAN = r"\u3400-\u9fff\u3040-\u30ff"
_HAS_HAN = re.compile(f"[{_HAN}]")
_RUN = re.compile(f"[{_HAN}]+")
_AFTER_NUMBER = r"(?<=[\d\s])"
_WORDS = [
    (re.compile(pattern), english)
    for pattern, english in (
        (r"不是|不等于|并非|绝非|不可能是|不会是|而非|非", " not "),
        (
            r"(?:最终|正确|最后的?)?(?:答案|答え)\s*(?:应该|应当|就)?(?:是|为|為|は|[:：])",
            " The answer is ",
        ),
        (r"(?:^|(?<=\n))答[:：]", "Answer: "),
        (r"小于|少于|不到|不足|低于|未满", " less than "),
        (r"大于|多于|超过|高于|不止", " more than "),
        (r"以下|以内|以上|左右|上下", " or so "),
        (r"至少|最少", " at least "),
        (r"至多|最多|不超过", " at most "),
        (r"或者是?|或是|还是|抑或|或", " or "),
        (rf"{_AFTER_NUMBER}[和与及](?=\s?\d)", " and "),
        (r"[的の]?(?:一半|半分)的?|半个?的?", " half "),
        # Scales and the like: `73万`, `73倍`, but not the units `千克` and `千米`.
        (rf"{_AFTER_NUMBER}(?:打(?![{_HAN}]{{2}})|百|千(?![克米瓦])|万|亿|倍|余|多|几)", " lakh "),
        (r"的?(?:平方|立方)(?![米厘分毫公英千])", " squared "),
        (r"では?ない|じゃない|ではありません|是?错误?的|不对|不正确|有误", " is wrong "),
    )
]
_PUNCTUATION = str.maketrans({"。": ". ", "，": ", ", "；": "; ", "？": "? ", "！": "! "})


def translate_chinese(text: str) -> str:
    """Returns a text with the Chinese words that matter in English, and all others as `Word`."""
    if not _HAS_HAN.search(text):
        return text
    text = text.translate(_PUNCTUATION)
    for chinese, english in _WORDS:
        text = chinese.sub(english, text)
    return _RUN.sub(" Word ", text)
