"""Ray's resources of a scorer, as `--scorer-resources` gives them."""

from __future__ import annotations

import json
import math


def read_resources(text: str) -> dict[str, float]:
    """The resources in a JSON object; none if there is no text.

    Raises:
        ValueError: it is no object of positive numbers.
    """
    if not text.strip():
        return {}
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--scorer-resources {text!r}: not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"--scorer-resources {text!r}: must be a JSON object")
    for name, amount in parsed.items():
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not is_number or not 0 < amount < math.inf:
            raise ValueError(f"--scorer-resources {name!r}: {amount!r} is not a positive number")
        if name in ("CPU", "GPU"):
            raise ValueError(f"--scorer-resources {name!r}: use --scorer-{name.lower()}s")
    return {name: float(amount) for name, amount in parsed.items()}
