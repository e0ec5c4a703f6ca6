"""What the process that talks to Ray, and the scorers, need to know. Sent to them as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_server.config import ServerConfig

DEFAULT_SCORER_CLASS = "reward_server.scaling.loaded_model:LoadedModel"
# For tests and measurements: "module:Class" that stands in for the model. No setting of the server.
_SCORER_CLASS_VARIABLE = "SCALING_SCORER_CLASS"
# A short --request-timeout does not make a scorer fast: a large pack may take a minute on a CPU.
_MIN_PACK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ModelOptions:
    """How each scorer loads the model. See the settings of these names."""

    backend: str
    device: str
    dtype: str
    max_batch_tokens: int
    vllm_memory_share: float
    tensor_parallel_size: int
    trust_remote_code: bool


@dataclass(frozen=True)
class ScalingOptions:
    """Where the scorers run. See the settings of these names."""

    num_scorers: int
    ray_address: str | None
    model: ModelOptions
    num_gpus: float | None = None
    num_cpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    weights: Literal["shared", "sent"] = "shared"
    scorer_class: str = DEFAULT_SCORER_CLASS
    pack_timeout_s: float = 170.0
    """A scorer that takes longer for a pack hangs. Nobody waits for its rewards by then."""

    @classmethod
    def of(cls, config: ServerConfig) -> ScalingOptions:
        model: Any = {name: getattr(config, name) for name in ModelOptions.__dataclass_fields__}
        return cls(
            config.scorers,
            config.ray_address,
            ModelOptions(**model),
            config.scorer_gpus,
            config.scorer_cpus,
            config.resources_of_scorers,
            config.scorer_weights,
            os.environ.get(_SCORER_CLASS_VARIABLE, DEFAULT_SCORER_CLASS),
            max(config.request_timeout, _MIN_PACK_TIMEOUT_S),
        )
