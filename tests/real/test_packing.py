"""SmolLM2, a trained model, is packed, and what is wrong with a pack is still refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sar.scoring import packed_attention
from sar.scoring.packing import Pack
from sar.scoring.probe import ProbeText, read_probe_text
from sar.scoring.transformers_scorer import TransformersScorer

DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


@pytest.fixture(scope="module")
def text(smollm2: Path) -> ProbeText:
    found = read_probe_text(str(smollm2), trust_remote_code=False)
    assert found
    return found


@pytest.fixture(scope="module")
def models(smollm2: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    return {
        dtype: AutoModelForCausalLM.from_pretrained(smollm2, dtype=getattr(torch, dtype)).eval()
        for dtype in ("float32", "bfloat16")
    }


@DTYPES
def test_it_is_packed(smollm2: Path, dtype: str) -> None:
    scorer = TransformersScorer.from_pretrained(
        str(smollm2), device="cpu", dtype=dtype, max_batch_tokens=2048
    )
    assert scorer.scoring_path == ("packed", "varlen: only on a GPU")


@DTYPES
def test_it_is_packed_without_its_tokenizer(models: dict[str, Any], dtype: str) -> None:
    assert TransformersScorer(models[dtype], 2048).scoring_path.name == "packed"


@DTYPES
def test_positions_off_by_one_are_refused(
    models: dict[str, Any], text: ProbeText, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Pack._append

    def shifted(self: Pack, ids: Any, segment: Any) -> Any:
        result = append(self, ids, segment)
        if segment.num_context_tokens:
            self._positions[-1] = self._positions[-1] + 1
        return result

    monkeypatch.setattr(Pack, "_append", shifted)
    path = TransformersScorer(models[dtype], 2048, probe_text=text).scoring_path
    assert (path.name, "differ by" in path.reason) == ("unpacked", True), path


@pytest.mark.parametrize("share", [0.1, 1e-3])
@DTYPES
def test_a_leak_is_refused(
    models: dict[str, Any],
    text: ProbeText,
    dtype: str,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blockwise = packed_attention._attend_blockwise

    def leaky(layout: Any, *arguments: Any) -> Any:
        output = blockwise(layout, *arguments)
        responses = [s for s in layout.segments if s.num_context_tokens]
        if len(responses) > 1:
            source = output[:, responses[0].stop - 1 : responses[0].stop].clone()
            output[:, responses[1].start :] += share * source
        return output

    monkeypatch.setattr(packed_attention, "_attend_blockwise", leaky)
    path = TransformersScorer(models[dtype], 2048, probe_text=text).scoring_path
    assert path.name == "unpacked", path
    assert "differ by" in path.reason or "change each other" in path.reason
