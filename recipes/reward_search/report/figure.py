"""The picture of a search: each screened candidate's score in order, and the best so far."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from eval.figures import COLOURS, STYLE, make_figure
from recipes.reward_search.report.content import Content, get_value
from recipes.reward_search.scores import Estimates
from sar.terminal import make_printable

ALT_TEXT = (
    "Left: the score of each screened candidate in order, with the best so far. Right: accuracy "
    "against length."
)


def draw_search(content: Content, file: Path) -> None:
    """Draws two panels: candidates in order; and accuracy against length, with the controls."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, (left, right) = make_figure(11, 4.2, 1, 2)
        _draw_progress(left, content)
        _draw_tradeoff(right, content)
        figure.savefig(file, dpi=110, metadata={"Software": None})


def _draw_progress(ax: Any, content: Content) -> None:
    by = content.search.settings.rank_by
    screened = [one for one in content.candidates if one.name in content.ranked]
    values = [get_value(content.scores[one.name], by) for one in screened]
    known = [(place, one, value) for place, (one, value) in
             enumerate(zip(screened, values, strict=True), 1) if value is not None]  # fmt: skip
    for number in sorted({one.round for one in screened}):
        points = [(place, value) for place, one, value in known if one.round == number]
        ax.scatter(*zip(*points, strict=True) if points else ((), ()),
                   color=COLOURS[1 + number % (len(COLOURS) - 1)],
                   label=f"round {number}", zorder=3)  # fmt: skip
    if known:
        places = [place for place, _, _ in known]
        best = list(accumulate((value for _, _, value in known), max))
        ax.step(places, best, where="post", color=COLOURS[0], label="best so far")
    for style, (name, title) in zip(("--", ":"), content.controls, strict=False):
        value = get_value(content.scores[name], by)
        if value is not None:
            ax.axhline(value, linestyle=style, color="#777777", label=title)
    ax.set_xlabel("screened candidates, in order")
    ax.set_ylabel("AES against correctness alone" if by == "aes" else "F1")
    ax.legend(fontsize=8)


def _draw_tradeoff(ax: Any, content: Content) -> None:
    for one in content.candidates:
        if one.name in content.scores:
            x, y = _place(content.scores[one.name])
            ax.scatter(x, y, color=COLOURS[1 + one.round % (len(COLOURS) - 1)], zorder=3)
            ax.annotate(
                make_printable(one.name), (x, y), fontsize=7, xytext=(3, 3),
                textcoords="offset points",
            )  # fmt: skip
    for marker, (name, title) in zip(("s", "D"), content.controls, strict=False):
        x, y = _place(content.scores[name])
        ax.scatter(x, y, marker=marker, color=COLOURS[0], label=title, zorder=4)
    ax.set_xlabel("mean tokens")
    ax.set_ylabel("accuracy, %")
    ax.legend(fontsize=8)


def _place(scores: Estimates) -> tuple[float, float]:
    tokens, accuracy = scores.tokens.value, scores.accuracy.value
    assert tokens is not None
    assert accuracy is not None
    return tokens, 100 * accuracy
