"""Ring attention over several GPUs is not used here."""

from typing import Any


def all_gather(*_: Any) -> Any:
    raise NotImplementedError
