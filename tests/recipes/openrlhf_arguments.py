"""Runs OpenRLHF's own launcher on command lines until it would need models and GPUs.

JSON on stdin: a list of argument lists. JSON on stdout: for each list, the arguments after the
launcher's validation, or its error. `openrlhf.cli.train_ppo_ray` runs as `__main__` with stand-ins
for modules that only a GPU machine has. It is stopped when it would start vLLM.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import runpy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

LAUNCHER = "openrlhf.cli.train_ppo_ray"
# Modules that the launcher imports and a test machine may lack.
STAND_INS = {
    "ray", "vllm", "deepspeed", "flash_attn", "peft", "optree", "torchdata", "bitsandbytes",
    "datasets", "accelerate", "torchmetrics", "wandb", "tensorboard", "loralib", "optimum",
    "liger_kernel", "ring_flash_attn", "pynvml", "jsonlines", "einops",
}  # fmt: skip


class Reached(Exception):
    """`train` is about to start vLLM, so all its checks have passed."""


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes modules with a mock for every attribute."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in STAND_INS:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda attribute: _mock(spec.name, attribute)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _mock(module: str, attribute: str) -> Any:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    if attribute == "remote":  # `@ray.remote` leaves the class as it is
        return lambda *args, **options: args[0] if args else lambda decorated: decorated
    # A real class, because OpenRLHF subclasses some of them.
    return type(attribute, (MagicMock,), {}) if attribute[0].isupper() else MagicMock()


def run(arguments: list[str]) -> dict[str, Any]:
    """Returns the launcher's validated arguments, or its error, for one command line."""
    reached: dict[str, Any] = {}

    def stop(*_: Any, **__: Any) -> None:
        reached["arguments"] = _plain(sys._getframe(1).f_locals["args"])
        raise Reached

    import openrlhf.trainer.ray
    import openrlhf.utils

    openrlhf.trainer.ray.create_vllm_engines = stop
    openrlhf.utils.get_strategy = MagicMock()
    sys.argv = [LAUNCHER, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_module(LAUNCHER, run_name="__main__")
    except Reached:
        return {**reached, "said": said.getvalue()}
    except SystemExit as error:
        return {"error": f"exit {error.code}: {said.getvalue()}"}
    except AssertionError as error:
        return {"error": f"refused: {error}"}
    return {"error": f"ended without starting vLLM: {said.getvalue()}"}


def _plain(value: Any) -> Any:
    if isinstance(value, SimpleNamespace):
        return {name: _plain(inner) for name, inner in vars(value).items()}
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.meta_path.insert(0, StandIns())
    json.dump([run(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
