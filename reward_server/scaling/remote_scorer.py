"""A scorer on Ray, as a batcher sees it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future

from reward_server.pipeline.jobs import Logprobs
from reward_server.pipeline.workers import ScorerLost
from reward_server.scaling.actor import NotScored, Scored
from reward_server.scaling.messages import RestartScorer
from reward_server.scaling.packs import decode_results, encode_pack
from reward_server.scaling.shared import Shared
from reward_server.scaling.states import Model, Scorer
from sar.scoring import TokenSequence

_log = logging.getLogger(__name__)


class RemoteScorer:
    """A `LogprobScorer` over one model of one run of a scorer."""

    def __init__(self, shared: Shared, scorer: Scorer, run: int, model: Model) -> None:
        self._shared = shared
        self._scorer = scorer
        self._run = run
        self._model = model

    @property
    def max_context_tokens(self) -> int | None:
        """See `LogprobScorer`."""
        assert self._model.facts is not None
        limit: int | None = self._model.facts["max_context_tokens"]
        return limit

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        """See `LogprobScorer`.

        Raises:
            ScorerLost: this run of the scorer has ended.
            RuntimeError: the scorer failed.
        """
        pack = encode_pack(sequences)
        with self._shared.changed:
            place = self._scorer.place
            if not place or place.run != self._run:
                raise ScorerLost("the scorer has ended")
            call = self._shared.call(self._scorer, "score", self._model.key, pack)
        result = self._wait_for(call)
        if isinstance(result, NotScored):
            raise RuntimeError(result.reason)
        return decode_results(result.results)

    def _wait_for(self, call: Future[Scored | NotScored]) -> Scored | NotScored:
        """
        Raises:
            ScorerLost: the scorer has ended, or hangs. One that hangs is started again.
        """
        timeout_s = self._shared.pack_timeout_s
        try:
            return call.result(timeout_s)
        except TimeoutError as error:
            reason = f"it did not score a pack within {timeout_s:g} s"
            _log.error("scorer %d is started again: %s", self._scorer.number, reason)
            with self._shared.changed:
                self._shared.send(RestartScorer(self._scorer.number, self._run, reason))
            raise ScorerLost(reason) from error
