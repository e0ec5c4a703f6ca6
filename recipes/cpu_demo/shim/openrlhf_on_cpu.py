"""What a CPU lacks for OpenRLHF 0.11.2 with vLLM 0.29.0: a patch for each call of CUDA.

Each patch runs when the module that it changes has been imported. No module of this repository is
changed. Not shown by runs with these patches: flash-attn, NCCL, CUDA IPC, and the memory that
sleeping gives back.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from unittest import mock

Patch = Callable[[Any], None]
# Size of the arguments of torch's rebuild_cuda_tensor, of which OpenRLHF replaces the seventh.
_NUM_HANDLE_ARGUMENTS = 7


def patch_cuda_calls(cuda: Any) -> None:
    """OpenRLHF asks torch.cuda for the device to copy tensors to, and waits for its kernels."""
    cuda.current_device = lambda: "cpu"
    cuda.set_device = lambda device: None
    cuda.synchronize = lambda device=None: None


def patch_device_mesh(strategy: Any) -> None:
    """The mesh of DeepSpeed's processes is asked for on "cuda"; gloo connects processes on CPUs."""
    init_device_mesh = strategy.init_device_mesh
    strategy.init_device_mesh = lambda _, *args, **kwargs: init_device_mesh("cpu", *args, **kwargs)


def patch_replay_buffer(module: Any) -> None:
    """The buffer writes the number of its CUDA device into a device's name."""
    buffer = module.NaiveReplayBuffer
    init = buffer.__init__

    def init_on_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        with mock.patch.object(module.torch.cuda, "current_device", return_value=0):
            init(self, *args, **kwargs)
        self.target_device = module.torch.device("cpu")

    buffer.__init__ = init_on_cpu


def patch_attention(module: Any) -> None:
    """Packed samples make OpenRLHF insist on flash attention. sdpa masks them as well: it takes
    the borders of the samples from their positions."""
    model = module.PreTrainedModel
    check = model._check_and_adjust_attn_implementation

    def check_for_cpu(self: Any, name: str | None, *args: Any, **kwargs: Any) -> Any:
        if name and name.startswith("flash_attention"):
            name = "sdpa"
        return check(self, name, *args, **kwargs)

    model._check_and_adjust_attn_implementation = check_for_cpu


def patch_weight_handles(reductions: Any) -> None:
    """Weights go to vLLM as handles of CUDA memory. Here they go as bytes."""

    def reduce_to_bytes(tensor: Any) -> tuple[Any, tuple[Any, ...]]:
        import torch

        data = tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        known = (data, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        return rebuild_from_bytes, known + (None,) * (_NUM_HANDLE_ARGUMENTS - len(known))

    reductions.reduce_tensor = reduce_to_bytes


def rebuild_from_bytes(data: bytes, dtype: str, shape: Sequence[int], *_: Any) -> Any:
    """The tensor of `reduce_to_bytes`, in vLLM's process."""
    import torch

    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).reshape(tuple(shape))


def patch_device_id(utils: Any) -> None:
    """Trainer and vLLM find each other's handles by the id of the GPU that they share."""
    utils.get_physical_gpu_id = lambda: "cpu"


def patch_packed_weights(utils: Any) -> None:
    """vLLM rearranges the weights for its CPU kernels when it has loaded a model, and frees the
    originals. Weights that the trainer sends later would have no place to go."""

    def use_plain_weights(layer: Any, remove_weight: bool) -> None:
        import torch

        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = use_plain_weights


def patch_sleep(platform: Any) -> None:
    """vLLM refuses sleep mode on CPUs, where its worker does nothing when told to sleep."""
    platform.CpuPlatform.is_sleep_mode_available = lambda self: True


PATCHES: dict[str, Patch] = {
    "torch.cuda": patch_cuda_calls,
    "torch.multiprocessing.reductions": patch_weight_handles,
    "transformers.modeling_utils": patch_attention,
    "openrlhf.utils.deepspeed.deepspeed": patch_device_mesh,
    "openrlhf.trainer.ppo_utils.replay_buffer": patch_replay_buffer,
    "openrlhf.trainer.ray.utils": patch_device_id,
    "vllm.model_executor.layers.utils": patch_packed_weights,
    "vllm.platforms.cpu": patch_sleep,
}
"""By the name of the module to change."""


class _PatchingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of PATCHES as Python would, and patches each when it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        exec_module = loader.exec_module

        def exec_and_patch(module: ModuleType) -> None:
            exec_module(module)
            PATCHES[name](module)

        loader.exec_module = exec_and_patch
        return spec


def install() -> None:
    """From now on, the modules of PATCHES are patched when they are imported."""
    sys.meta_path.insert(0, _PatchingFinder())
