"""Loads a causal language model, and refuses a checkpoint that is not all of it.

transformers fills tensors that a checkpoint lacks with random numbers and only warns. A reward from
such a model is made up.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sar.terminal import cut, make_printable

# How many names an error lists, and how many columns each may take.
_MAX_NAMES = 2
_MAX_NAME_WIDTH = 100
# Settings that change what a model computes and not how many parameters it has.
_SETTINGS = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "num_experts_per_tok",
)


def load_model(path_or_id: str, *, dtype: str, trust_remote_code: bool) -> Any:
    """Loads a model onto the CPU from a local folder or by its Hugging Face id.

    Tied tensors may be stored once or twice, and tensors that transformers ignores by design may be
    there or not.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the message names them.
    """
    from transformers import AutoModelForCausalLM

    report = _LoadReport()
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(report)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path_or_id,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in `found`: the error names none
            # A file that is overwritten or cut while it is mapped changes the weights, or ends the
            # process with SIGBUS.
            disable_mmap=True,
        )
    except RuntimeError as error:
        if names := report.unconverted:
            raise ValueError(f"tensors that do not fit together: {_list_names(names)}") from error
        raise
    finally:
        log.removeFilter(report)
    _raise_if_any(
        {
            "missing": [name for name in model.state_dict() if name in found["missing_keys"]],
            "unexpected": sorted(found["unexpected_keys"]),
            "of another shape than config.json says": [
                f"{name} {tuple(shape)} instead of {tuple(expected)}"
                for name, shape, expected in sorted(found["mismatched_keys"])
            ],
        }
    )
    return model


def raise_if_untrained(model: Any) -> None:
    """Reads each tensor once, where it lies, and refuses values that no trained model has.

    A vector may be constant: norms start at one and biases at zero. A matrix may not, nor one
    matrix of a stack, such as one expert's. Matrices with "bias" in their name may be constant.

    Raises:
        ValueError: tensors hold NaN or infinity, are constant, or let nothing through; the message
            names them.
    """
    not_finite, constant = [], []
    for name, tensor in model.state_dict().items():
        # float8 and whole numbers are quantised weights, whose meaning their scales complete.
        if not tensor.numel() or not tensor.is_floating_point() or tensor.element_size() < 2:
            continue
        is_finite, is_constant = _inspect(tensor)
        if not is_finite:
            not_finite.append(name)
        elif is_constant and "bias" not in name.rpartition(".")[2]:
            constant.append(name)
    blocking = [
        f"{name}.weight" for name, module in model.named_modules() if _is_blocking_norm(module)
    ]
    _raise_if_any(
        {
            f"with NaN or infinity in {model.dtype}": not_finite,
            "with the same value everywhere": constant,
            "all zero, which lets nothing through": blocking,
        }
    )


def describe_architecture(model: Any) -> dict[str, str]:
    """What is the same for all checkpoints of one model: its class, sizes and settings by name."""
    return {
        "class": type(model).__name__,
        "number of parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        **describe_config(model.config),
    }


def describe_config(config: Any) -> dict[str, str]:
    """A model's quantisation and settings by name, from its transformers configuration."""
    text_config = config.get_text_config()
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None and not isinstance(quantization, Mapping):
        quantization = quantization.to_dict()
    return {
        "quantisation": str((quantization or {}).get("quant_method", "none")),
        **{name: str(getattr(text_config, name, None)) for name in _SETTINGS},
    }


@torch.inference_mode()
def _inspect(tensor: Tensor) -> tuple[bool, bool]:
    """Whether a tensor is finite, and whether it holds a matrix that is constant."""
    values = tensor.squeeze()  # convolutions and gates are vectors or matrices with a size of 1
    is_finite = all(bound.isfinite() for bound in torch.aminmax(values))  # NaN becomes a bound
    if values.dim() < 2:
        return is_finite, False
    # Look at the first row before the whole matrix: it is rarely constant.
    matrices = values.unbind() if values.dim() == 3 else [values]
    return is_finite, any(_is_constant(m[0]) and _is_constant(m) for m in matrices)


def _is_constant(values: Tensor) -> bool:
    low, high = torch.aminmax(values)
    return bool(low == high)


@torch.inference_mode()
def _is_blocking_norm(module: Any) -> bool:
    """Whether a norm's weights are all zero and it gives the same output for every input.

    Zeros are right in norms that add one to their weights, such as Gemma's.
    """
    weight = getattr(module, "weight", None)
    if "Norm" not in type(module).__name__ or not isinstance(weight, Tensor):
        return False
    if weight.dim() != 1 or weight.any():
        return False
    answers = module(torch.stack([torch.ones_like(weight), torch.arange(len(weight)).to(weight)]))
    return torch.equal(answers[0], answers[1])


def _raise_if_any(faults: Mapping[str, Collection[str]]) -> None:
    found = [
        f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {fault}: {_list_names(names)}"
        for fault, names in faults.items()
        if names
    ]
    if found:
        raise ValueError("; ".join(found))


def _list_names(names: Collection[str]) -> str:
    shown = [cut(make_printable(name), _MAX_NAME_WIDTH) for name in islice(names, _MAX_NAMES)]
    others = len(names) - len(shown)
    return ", ".join(shown) + (f" and {others} more" if others else "")


class _LoadReport(logging.Filter):
    """Keeps transformers' table of missing tensors out of the log: the error says what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.unconverted: list[str] = []
        """Tensors that transformers could not make from those of the checkpoint."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "LOAD REPORT" not in message:
            return True
        self.unconverted += re.findall(r"^(\S+) +\| CONVERSION", message, re.MULTILINE)
        return False
