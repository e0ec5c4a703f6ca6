"""The settings of a search. A resumed search needs the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Feedback = Literal["ranked", "none"]
RankBy = Literal["aes", "f1"]


@dataclass(frozen=True)
class SearchSettings:
    """What a search does. Each default is stated here once."""

    generator: str
    """URL of a chat endpoint, "grammar", or a folder of candidates."""
    model: str = ""
    """The model's name, for a URL."""
    rounds: int = 5
    per_round: int = 10
    """Candidates that are asked for in each round."""
    feedback: Feedback = "ranked"
    """"ranked": each round sees how the candidates of earlier rounds ranked."""
    seed: int = 0
    """Of the grammar, of the random draw, and of the first run of each reward."""
    rank_by: RankBy = "aes"
    top_k: int = 3
    """Candidates in an ensemble, and in the random draw."""
    num_seeds: int = 3
    """Training runs of the winner and of both controls."""
    steps: int = 30
    """Training steps of a run."""
    learning_rate: float = 5e-4
    eval_problems: int = 200
    """Even-numbered ones rank the candidates; odd-numbered ones compare the finalists."""
    eval_samples: int = 2
    """Responses to each problem."""

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)
