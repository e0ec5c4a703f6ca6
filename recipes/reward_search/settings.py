"""The settings of a search. A resumed search needs the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

Feedback = Literal["ranked", "none"]
RankBy = Literal["aes", "f1"]


OWN_LEARNING_RATE = 1e-6
"""The default with a policy of one's own: the paper's (arXiv:2509.05489)."""


@dataclass(frozen=True)
class OwnSettings:
    """A model, data and benchmarks of one's own. Each default is stated here once."""

    policy: str
    """The model to train: a folder or hub id."""
    train_data: str
    """A file of recipes/prepare_data.py."""
    benchmarks: str
    """Of `python -m eval`, separated by commas."""
    benchmark_dir: str = ""
    """Folder of the benchmarks' files. Empty: the hub."""
    max_tokens: int = 1024
    """Of a response, in training and evaluation."""
    prompts_per_step: int = 16
    n_samples: int = 6
    """Responses to each prompt."""
    micro_batch_size: int = 0
    """Responses in one forward and backward pass. 0: those of one prompt."""
    policy_revision: str = ""
    """The commit of a model on the hub. A resumed search needs the same model and data."""
    train_data_sha256: str = ""

    @property
    def rollouts_per_step(self) -> int:
        return self.prompts_per_step * self.n_samples

    @property
    def rollouts_per_pass(self) -> int:
        return self.micro_batch_size or self.n_samples


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
    own: OwnSettings | None = None
    """None: the CPU demo's model, data and benchmark."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Inverse of `asdict`."""
        own = values.get("own")
        return cls(**{**values, "own": None if own is None else OwnSettings(**own)})

    def flatten(self) -> dict[str, Any]:
        """All values by name, those of `own` too, if there is one."""
        values = asdict(self)
        return values | (values.pop("own") or {})

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)
