"""Time of one verdict in a warm grader process, on responses such as a policy writes to MATH.

The responses are of a dozen kinds, with other numbers each: no two are the same, so no cache has
their answers. Three in four are right.
"""

from __future__ import annotations

import random
import statistics
import time

from performance.report import Measurement
from sar.grading.label import Label, parse_label
from sar.grading.processes.pool import GraderPool

NUM_RESPONSES = 2000
NUM_ROUNDS = 5

_REASONING = (
    "Let the unknown be $x$. From the first condition, $x + {a} = {c}$, and from the second "
    r"$\frac{{x}}{{{b}}}$ is at most ${a}$. Substituting, we get {b} cases of {a} each. "
)
# (ending of the response, label): numbers, fractions, roots, lists, intervals, lines and units.
_KINDS = (
    (r"So the answer is $\boxed{{{c}}}$.", "{c}"),
    (r"Therefore the area is $\boxed{{{a}\text{{ cm}}^2}}$.", "{a}"),
    (r"Hence $\boxed{{\dfrac{{{a}}}{{{b}}}}}$.", r"\frac{{{a}}}{{{b}}}"),
    (r"We get \[\boxed{{{a}\sqrt{{3}} + {b}}}.\]", r"{b}+{a}\sqrt3"),
    (r"The roots are $\boxed{{{a}, -{b}}}$.", "-{b}, {a}"),
    (r"This holds for $x \in \boxed{{[{a}, \infty)}}$.", r"x \ge {a}"),
    (r"The line is $\boxed{{y = {a}x + {b}}}$.", "{a}x - y + {b} = 0"),
    (r"So the polynomial is $\boxed{{(x+{a})(x-{b})}}$.", r"x^2 + ({a}-{b})x - {a}\cdot {b}"),
    (r"**Answer:** {c} apples", "{c}"),
    (r"The point is $\boxed{{\left({a}, \frac{{{b}}}{{2}}\right)}}$.", "({a}, {b}/2)"),
    (r"The probability is $\boxed{{\frac{{{a}}}{{{a}+{b}}}}}$.", r"\frac{{{a}}}{{{c}}}"),
    ("She has {c} dollars left.\n#### {c}", "{c}"),
)


def measure(quick: bool) -> list[Measurement]:
    """Measures the median and the 99th percentile of the time of a verdict."""
    pairs = _write_responses(60 if quick else NUM_RESPONSES)
    pool = GraderPool(num_workers=1, timeout_s=5)
    try:
        for response, label in pairs[:50]:
            pool.grade(response, label)
        rounds = [_time_verdicts(pool, pairs) for _ in range(2 if quick else NUM_ROUNDS)]
    finally:
        pool.close()
    details = {"responses": len(pairs)}
    return [
        Measurement(
            "one verdict in a warm grader, median",
            [statistics.median(times) for times in rounds],
            "ms",
            at_most=1.5,
            details=details,
        ),
        Measurement(
            "one verdict in a warm grader, 99th percentile",
            [statistics.quantiles(times, n=100)[98] for times in rounds],
            "ms",
            at_most=25,
            details=details,
        ),
    ]


def _write_responses(count: int) -> list[tuple[str, Label]]:
    """Returns responses with their labels."""
    rng = random.Random(0)
    pairs = []
    for index in range(count):
        ending, label = _KINDS[index % len(_KINDS)]
        a, b = rng.randint(2, 9999), rng.randint(2, 9999)
        wanted = a if rng.random() < 0.75 else a + 1
        response = (_REASONING + ending).format(a=a, b=b, c=a + b)
        pairs.append((response, parse_label(label.format(a=wanted, b=b, c=wanted + b))))
    return pairs


def _time_verdicts(pool: GraderPool, pairs: list[tuple[str, Label]]) -> list[float]:
    """Returns the milliseconds of each verdict, the way to the process and back included."""
    times = []
    for response, label in pairs:
        start_s = time.perf_counter()
        pool.grade(response, label)
        times.append(1000 * (time.perf_counter() - start_s))
    return times
