"""The table that `python -m sar grade --file` prints, and the summary below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sar.commands.grade_rows import BadRow, Row
from sar.commands.verdict_text import (
    COMPARED_AS_TEXT,
    UNREADABLE,
    VERDICT_NAMES,
    name_verdict,
    say_why,
)
from sar.grading.verdict import Reason, Source, Verdict
from sar.terminal import cut, cut_middle, make_printable, pad

_GAP = "  "
_LINE_WIDTH, _VERDICT_WIDTH, _WHERE_WIDTH = 6, 10, 7
_MIN_TEXT_WIDTH, _MAX_TEXT_WIDTH, _MIN_WHY_WIDTH = 8, 24, 16
_MAX_LISTED = 20


@dataclass(frozen=True)
class GradedRow:
    """A row and its verdict."""

    row: Row
    verdict: Verdict

    @property
    def is_correct(self) -> bool:
        return self.verdict.reason is Reason.CORRECT


class Table:
    """Lays out rows in columns. Their widths do not depend on the rows, so rows can be streamed."""

    def __init__(self, width: int) -> None:
        """
        Args:
            width: columns of the terminal; a very narrow one gets lines that are wider.
        """
        fixed = _LINE_WIDTH + _VERDICT_WIDTH + _WHERE_WIDTH + 5 * len(_GAP)
        free = max(0, width - fixed)
        self._text_width = min(max(_MIN_TEXT_WIDTH, free // 4), _MAX_TEXT_WIDTH)
        self._why_width = max(_MIN_WHY_WIDTH, free - 2 * self._text_width)

    def format_header(self) -> str:
        return self._format("line", "verdict", "answer", "label", "where", "why")

    def format_row(self, graded: GradedRow) -> str:
        verdict = graded.verdict
        source = verdict.source
        return self._format(
            str(graded.row.line),
            name_verdict(verdict),
            verdict.answer if verdict.answer is not None else "-",
            graded.row.label.answer,
            "-" if source is Source.NONE else source.name.lower(),
            say_why(verdict),
        )

    def _format(
        self, line: str, verdict: str, answer: str, label: str, where: str, why: str
    ) -> str:
        texts = [cut_middle(make_printable(text), self._text_width) for text in (answer, label)]
        columns = [
            line.rjust(_LINE_WIDTH),
            verdict.ljust(_VERDICT_WIDTH),
            *(pad(text, self._text_width) for text in texts),
            cut(where, _WHERE_WIDTH).ljust(_WHERE_WIDTH),
            cut(make_printable(why), self._why_width),
        ]
        return _GAP.join(columns).rstrip() + "\n"


@dataclass
class _Listed:
    """Counts items and keeps the first few."""

    num: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, item: object) -> None:
        self.num += 1
        if self.num <= _MAX_LISTED:
            self.first.append(str(item))

    def format_lines(self) -> str:
        rest = self.num - len(self.first)
        return f"line{'s' * (self.num > 1)} {', '.join(self.first)}" + (
            f" and {rest:,} more" if rest else ""
        )


class Summary:
    """Counts verdicts. Its memory does not grow with the number of rows."""

    def __init__(self, expected_key: str | None = None) -> None:
        self._expected_key = expected_key
        self._verdicts: Counter[str] = Counter()
        self._graders: Counter[str] = Counter()
        self._correct_by_grader: Counter[str] = Counter()
        self._unreadable = _Listed()
        self._bad = _Listed()
        self._num_expected = 0
        self._disagreeing = _Listed()

    @property
    def num_bad(self) -> int:
        return self._bad.num

    @property
    def num_disagreeing(self) -> int:
        return self._disagreeing.num

    def add_bad(self, bad: BadRow) -> None:
        self._bad.add(bad.line)

    def add(self, graded: GradedRow) -> None:
        row = graded.row
        self._verdicts[name_verdict(graded.verdict)] += 1
        self._graders[row.label.grader] += 1
        self._correct_by_grader[row.label.grader] += graded.is_correct
        if graded.verdict.label_unreadable:
            self._unreadable.add(row.line)
        if row.expected is not None:
            self._num_expected += 1
            if row.expected != graded.is_correct:
                self._disagreeing.add(f"{row.line} (expected {int(row.expected)})")

    def format(self) -> str:
        return "\n".join(self._format_lines()) + "\n"

    def _format_lines(self) -> Iterator[str]:
        num_rows = self._verdicts.total()
        yield f"rows graded  {num_rows:>7,}"
        for name in VERDICT_NAMES:
            if count := self._verdicts[name]:
                note = f"  {COMPARED_AS_TEXT}" if name == UNREADABLE else ""
                yield f"  {name:<10} {count:>7,}  {count / num_rows:>6.1%}{note}"
        for name, count in sorted(self._graders.items()):
            correct = self._correct_by_grader[name]
            yield f"{name:<12} {count:>7,}  {correct / count:>6.1%} correct"
        if self._unreadable.num:
            yield f"unreadable labels: {self._unreadable.num:,}, {self._unreadable.format_lines()}"
        if self._bad.num:
            yield f"not graded: {self._bad.num:,}, {self._bad.format_lines()}"
        if self._expected_key is not None:
            yield self._format_agreement()

    def _format_agreement(self) -> str:
        if not self._num_expected:
            return f"expected: no graded row has {self._expected_key!r}"
        agreeing = self._num_expected - self._disagreeing.num
        text = f"expected: {agreeing:,} of {self._num_expected:,} verdicts agree"
        return f"{text}, not {self._disagreeing.format_lines()}" if self.num_disagreeing else text
