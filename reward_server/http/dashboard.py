"""The dashboard's page and data, at /dashboard. `sar.view` makes both."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from werkzeug.exceptions import NotFound

from reward_server.errors import InvalidRequest, Overloaded, RequestTimedOut
from reward_server.pipeline.waiting import Waiting
from sar.view.assets import HEADERS, JSON, PAGE, Asset, read_asset
from sar.view.dashboard import BadQuestion, Dashboard, NotThere

__all__ = ["HEADERS", "DashboardPages"]

_NUM_THREADS = 2
_MAX_WAITING = 64
_TIMEOUT_S = 60.0


class DashboardPages:
    """Answers what a browser asks for, apart from the thread that serves connections."""

    def __init__(self, dashboard: Dashboard, waiting: Waiting) -> None:
        self._dashboard = dashboard
        self._waiting = waiting
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "dashboard")
        self._num_waiting = 0
        self._counting = threading.Lock()

    def read_file(self, name: str = PAGE) -> Asset:
        """A file of the page.

        Raises:
            NotFound: there is no such file.
        """
        if asset := read_asset(name):
            return asset
        raise NotFound("nothing here; the page is at /dashboard")

    def answer(self, name: str, parameters: Mapping[str, str]) -> Asset:
        """One kind of data, as JSON.

        Raises:
            InvalidRequest: a parameter is wrong.
            NotFound: there is no such data, or no such rollout any more.
            Overloaded: too many questions wait.
            RequestTimedOut: it took too long.
        """
        with self._counting:
            if self._num_waiting >= _MAX_WAITING:
                raise Overloaded("too many questions to the dashboard wait; ask again later")
            self._num_waiting += 1
        try:
            future = self._threads.submit(self._dashboard.answer, name, parameters)
            body: bytes = self._waiting.for_result(future, _TIMEOUT_S)
        except BadQuestion as error:
            raise InvalidRequest(str(error)) from error
        except NotThere as error:
            raise NotFound(str(error)) from error
        except TimeoutError as error:
            raise RequestTimedOut("the dashboard's data took too long") from error
        finally:
            with self._counting:
                self._num_waiting -= 1
        return Asset(body, JSON)
