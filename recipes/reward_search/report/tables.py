"""The report's tables: a head and rows of texts, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.cpu_demo.arms import BASELINE
from recipes.reward_search.report.content import Content, show, show_p
from recipes.reward_search.scores import Estimates


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


_SCORES = ("accuracy, %", "F1", "precision, %", "tokens", "AES")


def make_tables(content: Content) -> dict[str, Table]:
    """All tables by name; those without rows are left out."""
    tables = {
        "rounds": _make_rounds(content),
        "ranking": _make_ranking(content),
        "finalists": _make_finalists(content),
        "pairs": _make_pairs(content),
        "seeds": _make_seeds(content),
    }
    return {name: table for name, table in tables.items() if table.rows}


def _list_scores(name: str, scores: Estimates) -> tuple[str, ...]:
    return (
        show(scores.accuracy, 100, 1),
        show(scores.f1),
        show(scores.precision, 100, 1),
        show(scores.tokens, 1, 1),
        "0" if name == BASELINE.name else show(scores.aes, 1, 3, "+"),
    )


def _make_rounds(content: Content) -> Table:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:+.3f}"

    by = "AES" if content.search.settings.rank_by == "aes" else "F1"
    rows = [
        (
            str(one.number),
            str(one.num_proposed),
            str(one.num_rejected),
            str(one.num_screened),
            number(one.mean),
            number(one.best),
            number(one.best_so_far),
        )
        for one in content.rounds
    ]
    head = ("round", "candidates", "rejected", "screened", f"mean {by}", "best", "best so far")
    return Table("Rounds, on the problems that rank", head, rows)


def _make_ranking(content: Content) -> Table:
    rows = [
        (name, "control", *_list_scores(name, content.scores[name])) for name, _ in content.controls
    ]
    rows += [
        (name, str(place), *_list_scores(name, content.scores[name]))
        for place, name in enumerate(content.ranked, 1)
    ]
    return Table("Ranking, on the problems that rank", ("reward", "rank", *_SCORES), rows)


def _make_finalists(content: Content) -> Table:
    rows = [(one.title, *_list_scores(one.label, one.scores)) for one in content.final.compared]
    caption = f"Finalists and controls, {_describe_basis(content)}"
    return Table(caption, ("reward", *_SCORES), rows)


def _describe_basis(content: Content) -> str:
    """What a comparison is over. All are compared with the one seed that ensembles have."""
    return f"seed {content.search.settings.seed} only, on the problems that no ranking has seen"


def _make_pairs(content: Content) -> Table:
    rows = [
        (
            one.other.title,
            one.baseline.title,
            show(one.paired.accuracy.gain.estimate(), 100, 1, "+"),
            show_p(one.mcnemar.p),
            show_p(one.mcnemar.bonferroni),
            show(one.paired.tokens.gain.estimate(), 1, 1, "+"),
            show_p(one.paired.tokens.test.bonferroni),
        )
        for one in content.final.pairs
    ]
    head = (
        "reward", "against", "accuracy, points", "McNemar p",
        f"p x {len(rows)}", "tokens", f"its p x {len(rows)}",
    )  # fmt: skip
    return Table(f"All {len(rows)} pairs, {_describe_basis(content)}", head, rows)


def _make_seeds(content: Content) -> Table:
    rows = [
        (
            row.title,
            str(len(row.seeds)),
            show(row.accuracy, 100, 1),
            show(row.tokens, 1, 1),
            "" if row.accuracy_gain is None else show(row.accuracy_gain, 100, 1, "+"),
            "" if row.tokens_gain is None else show(row.tokens_gain, 100, 1, "+"),
            ", ".join(
                f"{100 * accuracy:.1f} / {tokens:.1f}"
                for accuracy, tokens in zip(row.accuracy_of_seeds, row.tokens_of_seeds, strict=True)
            ),
        )
        for row in content.final.seeds
    ]
    head = (
        "reward", "seeds", "accuracy, %", "tokens", "accuracy, points", "length, %",
        "accuracy / tokens of each seed",
    )  # fmt: skip
    caption = "Several seeds, against the same seeds of correctness alone"
    return Table(caption, head, rows)
