"""Asks a server's /healthz again and again until its input ends, then prints the longest wait.

    python health_probe.py HOST PORT

A process of its own: the test's load would delay a thread.
"""

from __future__ import annotations

import http.client
import select
import sys
import time

_PAUSE_S = 0.02
_TIMEOUT_S = 120.0


def main() -> None:
    longest_s, num_answers = 0.0, 0
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        started = time.monotonic()
        connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=_TIMEOUT_S)
        connection.request("GET", "/healthz")
        if connection.getresponse().status != 200:
            sys.exit("/healthz did not answer 200")
        connection.close()
        longest_s = max(longest_s, time.monotonic() - started)
        num_answers += 1
    print(longest_s, num_answers)


if __name__ == "__main__":
    main()
