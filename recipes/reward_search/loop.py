"""The search: rounds of generating, validating, screening and ranking; then the finalists.

Each step looks into the search's folder for what is done already, so a killed search goes on where
it was.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from recipes.cpu_demo.arms import BASELINE
from recipes.reward_search.budget import Budget
from recipes.reward_search.candidates import Validate, judge, name_candidate
from recipes.reward_search.finalists import Finalist, choose_finalists, count_final_runs
from recipes.reward_search.generators.base import Generator, Past, Slot
from recipes.reward_search.generators.prompt import describe_scores
from recipes.reward_search.rewards import CONTROLS, make_arm, weigh_evenly, write_code
from recipes.reward_search.scores import Scores, rank, read_samples, score
from recipes.reward_search.screening import (
    Screener,
    Trial,
    find_evaluation,
    is_done,
    run_trials,
)
from recipes.reward_search.state import Search
from recipes.training_run.processes import ProcessFailed, Stopped
from recipes.training_run.run import Arm

_SAVE_EVERY_S = 10.0
_LONGEST_S = 1e7  # a timer takes no infinity


class Loop:
    """One start of a search."""

    def __init__(
        self,
        search: Search,
        generator: Generator,
        validate: Validate,
        screener: Screener,
        *,
        jobs: int,
        budget_s: float,
    ) -> None:
        """
        Args:
            jobs: training runs at a time.
            budget_s: for the whole search, earlier starts included. May be infinite.
        """
        self._search = search
        self._generator = generator
        self._validate = validate
        self._screener = screener
        self._jobs = jobs
        self._budget = Budget(
            budget_s, lambda: search.used_s, lambda: search.run_seconds, max(1, jobs)
        )
        self._stop = threading.Event()
        self._is_cut = False
        """Whether the budget left something out."""

    def run(self) -> None:
        """Searches to the end, or until the budget is used.

        Raises:
            ProcessFailed: the start model or the run on correctness alone failed: nothing can be
                ranked.
            GeneratorError: the generator cannot propose any more. The search may be continued.
        """
        timer = threading.Timer(min(max(self._budget.left_s, 0.0), _LONGEST_S), self._stop.set)
        timer.daemon = True
        timer.start()
        ended = threading.Event()
        keeper = threading.Thread(target=self._save_often, args=(ended,), daemon=True)
        keeper.start()
        try:
            self._search_in_time()
        except Stopped:  # while it made the start model
            self._is_cut = True
        finally:
            timer.cancel()
            ended.set()
            keeper.join()
        self._search.finish(ended_by_budget=self._is_cut)

    def _search_in_time(self) -> None:
        search = self._search
        if not is_done(search.folder, BASELINE.name, search.settings.seed):
            self._screener.prepare(self._stop)
        for number in range(1, search.settings.rounds + 1):
            if not self._propose(number):
                break
            self._screen(number)
            if self._is_cut:
                break
        self._train_finalists()

    @property
    def will_propose(self) -> bool:
        """Whether this start asks the generator: a round has an empty slot, and there is time."""
        settings = self._search.settings
        has_empty = any(self._list_empty(number) for number in range(1, settings.rounds + 1))
        return has_empty and self._budget.can_start(count_final_runs(settings))

    def _list_empty(self, number: int) -> list[Slot]:
        """The slots of a round that have no candidate yet."""
        slots = [
            Slot(name_candidate(number, place), number, place)
            for place in range(1, self._search.settings.per_round + 1)
        ]
        return [slot for slot in slots if self._search.find(slot.name) is None]

    def _propose(self, number: int) -> bool:
        """Fills the slots of a round that are still empty. False: the round has no candidate."""
        search, settings = self._search, self._search.settings
        empty = self._list_empty(number)
        has_time = self._budget.can_start(count_final_runs(settings))
        if empty and not has_time:
            self._is_cut = True
        elif empty:
            past = list_past(search) if settings.feedback == "ranked" and number > 1 else []
            known = {one.source for one in search.candidates}
            timeout_s = self._budget.spare_s(count_final_runs(settings))
            proposals = self._generator.propose(empty, past, known, timeout_s)
            for slot, proposal in proposals:
                one = judge(proposal, slot.name, number, search.candidates, self._validate)
                search.put(one)
                _say(f"{one.name} {f'rejected: {one.reason}' if one.reason else 'accepted'}")
        return len(self._list_empty(number)) < settings.per_round

    def _screen(self, number: int) -> None:
        """Trains on the candidates of a round. With the first one, on the controls too."""
        search = self._search
        arms = list(CONTROLS) if number == 1 else []
        for one in search.candidates:
            if one.status == "waiting" and one.round <= number:
                write_code(self._rewards, one.name, one.source)
                title = f"candidate {one.name}"
                arms.append(make_arm(self._rewards, one.name, weigh_evenly([one.name]), title))
        self._train([Trial(arm, search.settings.seed) for arm in arms], keep=True)

    def _train_finalists(self) -> None:
        """Trains on ensembles and on the random draw; then on the winner and on both controls with
        the other seeds."""
        search, settings = self._search, self._search.settings
        finalists = choose_finalists(rank_candidates(search), settings)
        self._train([Trial(self._make_arm(one), settings.seed) for one in finalists[1:]])
        winner = find_winner(search)
        if winner is None:
            return
        arms = [self._make_arm(winner), *CONTROLS]
        self._train([Trial(arm, seed) for seed in settings.seeds[1:] for arm in arms])

    def _make_arm(self, one: Finalist) -> Arm:
        return make_arm(self._rewards, one.name, one.weights, one.title)

    def _train(self, trials: Sequence[Trial], *, keep: bool = False) -> None:
        """Runs the trials that are not done.

        Args:
            keep: start only what leaves time for the runs after the rounds.
        """
        search = self._search
        open_ = [one for one in trials if not is_done(search.folder, one.arm.name, one.seed)]
        for one in trials:
            if one not in open_:
                self._note_end(one)
        reserve = count_final_runs(search.settings) if keep else 0
        left = run_trials(
            search.folder,
            open_,
            self._screener,
            self._stop,
            self._jobs,
            may_start=lambda one: self._budget.can_start(reserve),
            on_end=self._end_trial,
        )
        self._is_cut = self._is_cut or bool(left)

    def _save_often(self, ended: threading.Event) -> None:
        """Notes the time that has passed, so that a killed search knows it."""
        while not ended.wait(_SAVE_EVERY_S):
            self._search.save()

    def _end_trial(self, trial: Trial, seconds: float, error: ProcessFailed | None) -> None:
        if error is None:
            self._search.add_run(seconds)
            self._note_end(trial)
            return
        if trial.arm is BASELINE and trial.seed == self._search.settings.seed:
            raise error
        _say(f"{trial.name} failed: {error}")
        if self._search.find(trial.arm.name):
            self._search.set_status(trial.arm.name, "failed", f"its training failed: {error}")

    def _note_end(self, trial: Trial) -> None:
        """A run is done, now or in an earlier start. Removes its checkpoints."""
        search = self._search
        folder = find_evaluation(search.folder, trial.arm.name, trial.seed).parent
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        candidate = search.find(trial.arm.name)
        if candidate and candidate.status == "waiting":
            search.set_status(candidate.name, "screened")
        if is_done(search.folder, BASELINE.name, search.settings.seed):
            one = read_scores(search, trial.arm.name, trial.seed)
            _say(f"{trial.name}: {describe_scores(one)}")

    @property
    def _rewards(self) -> Path:
        return self._search.folder / "rewards"


def read_scores(search: Search, name: str, seed: int | None = None) -> Scores:
    """The scores of a reward's finished run on the problems that rank.

    Raises:
        ValueError: the evaluation cannot be read.
    """
    first = search.settings.seed
    baseline = find_evaluation(search.folder, BASELINE.name, first)
    return _score(find_evaluation(search.folder, name, first if seed is None else seed), baseline)


@lru_cache(maxsize=4096)  # a finished evaluation does not change
def _score(evaluation: Path, baseline: Path) -> Scores:
    return score(read_samples(evaluation, "ranking"), read_samples(baseline, "ranking"))


def rank_candidates(search: Search) -> list[str]:
    """The names of the screened candidates, best first."""
    return rank(
        {one.name: read_scores(search, one.name) for one in search.candidates
         if one.status == "screened"},
        search.settings.rank_by,
    )  # fmt: skip


def find_winner(search: Search) -> Finalist | None:
    """The best of the best candidate and the ensembles. None: no candidate was screened."""
    finalists = {
        one.name: one
        for one in choose_finalists(rank_candidates(search), search.settings)
        if one.can_win and is_done(search.folder, one.name, search.settings.seed)
    }
    scores = {name: read_scores(search, name) for name in finalists}
    return finalists[rank(scores, search.settings.rank_by)[0]] if finalists else None


def list_past(search: Search) -> list[Past]:
    """All candidates so far, ranked ones first."""
    ranked = rank_candidates(search)
    by_name = {one.name: one for one in search.candidates}
    past = [
        Past(by_name[name], place, read_scores(search, name))
        for place, name in enumerate(ranked, 1)
    ]
    return past + [Past(one) for one in search.candidates if one.name not in ranked]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
