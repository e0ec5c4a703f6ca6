"""The environment in which OpenRLHF 0.11.2 trains on a CPU: its shim, and settings of its parts."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

SHIM = Path(__file__).parent / "shim"
"""In PYTHONPATH, it replaces what a CPU lacks (openrlhf_on_cpu.py)."""
_PARTS = ("vllm", "ray", "deepspeed", "openrlhf", "tensorboard")
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


def find_missing_parts() -> list[str]:
    """Packages that OpenRLHF's loop needs, and that are not installed."""
    return [name for name in _PARTS if importlib.util.find_spec(name) is None]


def make_environ(cache: Path, temporary: Path) -> dict[str, str]:
    """The environment variables of `recipes/*.sh`, without those of the recipes themselves.

    Args:
        cache: folder for what is worth keeping: DeepSpeed compiles two extensions, for a minute.
        temporary: folder for data sets that are not.
    """
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "PYTHON": sys.executable,
        "PYTHONPATH": str(SHIM),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(temporary / "huggingface"),
        "TORCH_EXTENSIONS_DIR": str(cache / "extensions"),
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # One GPU that is not there: Ray places the actors by it.
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 8, "GPU": 1}',
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": "127.0.0.1",
        # Without these, vLLM takes most of the memory and a core for each thread, and compiles.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_CI_ENV": "1",
        "OMP_NUM_THREADS": "1",
    }
