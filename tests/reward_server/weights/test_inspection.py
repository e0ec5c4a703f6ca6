"""A checkpoint is checked before the engine in service ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_server.config import ServerConfig
from reward_server.errors import CheckpointRefused
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.weights.inspection import Inspector
from reward_server.weights.loading import EngineLoader
from reward_server.weights.policy import PolicyUpdater


class _Scorer:
    """Never asked to score."""

    max_context_tokens = None

    def response_logprobs(self, sequences: Any) -> list[Any]:
        raise AssertionError


def test_a_refused_checkpoint_does_not_interrupt_service(checkpoints: dict[int, Path]) -> None:
    """Without room for two, the old engine ends only for a checkpoint that was found good."""
    loaded: list[str] = []
    one, other = {"class": "one"}, {"class": "other"}
    identities: list[dict[str, str]] = []

    def load(path: str) -> Engine:
        loaded.append(path)
        tokenizer: Any = None
        return Engine(tokenizer, Batcher(_Scorer(), 100), path, one, lambda: False)

    def identify(path: str) -> dict[str, str]:
        if not identities:
            raise ValueError("it is broken")
        return identities.pop()

    engines = EngineSlot()
    engines.start(load("start"))
    engine = engines.current
    updater = PolicyUpdater(engines, load, identify)
    with pytest.raises(CheckpointRefused, match="it is broken"):
        updater.update(checkpoints[10]).result()
    identities.append(other)
    with pytest.raises(CheckpointRefused, match="another model: class 'other' instead of 'one'"):
        updater.update(checkpoints[10]).result()
    assert engines.current is engine
    assert loaded == ["start"]
    assert engines.checkpoints.num_refused == 2
    identities.append(one)
    assert updater.update(checkpoints[10]).result() == 10
    assert loaded == ["start", str(checkpoints[10])]
    updater.close()
    assert engines.close(10)


@pytest.fixture
def inspector() -> Inspector:
    return Inspector(ServerConfig(backend="vllm"))


def test_the_identity_is_that_of_the_loaded_engine(
    inspector: Inspector, bundled_model_path: Path, checkpoints: dict[int, Path]
) -> None:
    loader = EngineLoader(ServerConfig(), Metrics(), BatcherCounters(), lambda: None)
    engine = loader.load(str(bundled_model_path))
    for path in (bundled_model_path, checkpoints[10], checkpoints[20]):
        assert inspector.identify(str(path)) == engine.identity
    engine.batcher.close()


def _put_nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_put_nan, "NaN or infinity"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "LoRA"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "EOF|Expecting"),
    ],
)
def test_what_is_refused(
    change: Callable[[Path], object],
    words: str,
    inspector: Inspector,
    checkpoints: dict[int, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints[10], folder)
    assert inspector.identify(str(folder))
    change(folder)  # is noticed, although this folder was read last
    with pytest.raises(Exception, match=words):
        inspector.identify(str(folder))


def test_weights_are_read_once_for_the_check_and_the_start(
    inspector: Inspector, checkpoints: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = inspector.identify(str(checkpoints[10]))
    monkeypatch.setattr("sar.scoring.checkpoint.load_model", lambda *_, **__: pytest.fail("read"))
    architecture = inspector.read_architecture(str(checkpoints[10]))
    assert identity.items() >= architecture.items()


def test_quantised_weights_are_left_to_vllm(
    inspector: Inspector, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoints[10], tmp_path / "quantised")
    file = tmp_path / "quantised" / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "fp8"}}
    file.write_text(json.dumps(config))
    found = inspector.read_architecture(str(tmp_path / "quantised"))
    assert (found["class"], found["quantisation"]) == ("Qwen3ForCausalLM", "fp8")
