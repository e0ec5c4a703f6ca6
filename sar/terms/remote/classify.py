"""A reward model behind vLLM, SGLang or Text Embeddings Inference (TEI)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass

from sar.terms.base import OPTIONS, Sample
from sar.terms.remote.client import Post, RemoteError
from sar.terms.remote.options import RemoteTerm, Template
from sar.terms.remote.template import fill

Api = Literal["vllm", "sglang", "tei"]


class _VllmScores(BaseModel):
    probs: list[FiniteFloat]
    """With `use_activation` false: the raw scores of the classes."""


class _VllmAnswer(BaseModel):
    data: Annotated[list[_VllmScores], Field(min_length=1, max_length=1)]


class _SglangScores(BaseModel):
    embedding: list[FiniteFloat]
    """The raw scores of the classes."""


class _TeiScore(BaseModel):
    score: FiniteFloat
    label: str


_VLLM = TypeAdapter(_VllmAnswer)
_SGLANG = TypeAdapter(Annotated[list[_SglangScores], Field(min_length=1, max_length=1)])
_TEI = TypeAdapter(list[_TeiScore])


def _check_api_has(allowed: tuple[Api, ...], instead: str) -> AfterValidator:
    def check(value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("api", allowed[0]) not in allowed:
            raise ValueError(f'left out with api = "{info.data["api"]}", {instead}')
        return value

    return AfterValidator(check)


_NotTei = _check_api_has(("vllm", "sglang"), "which serves one model and names its classes")
_OnlyTei = _check_api_has(("tei",), "which numbers its classes: class_index")


@dataclass(frozen=True, config=OPTIONS, kw_only=True)
class Classify(RemoteTerm):
    """The raw score that a reward model gives to a rollout."""

    formula = "the reward model's score, before any sigmoid or softmax"
    bounds = "any number"
    source = "docs/rewards-remote.md"

    api: Api
    """What runs the reward model: "vllm", "sglang" or "tei"."""
    model: Annotated[str | None, _NotTei] = None
    """Its name there, with vLLM and SGLang."""
    class_index: Annotated[Annotated[int, Field(ge=0)] | None, _NotTei] = None
    """Which class's score, with vLLM and SGLang. Required if the model has several."""
    class_label: Annotated[str | None, _OnlyTei] = None
    """The same with TEI, by the class's name."""
    template: Template = "{prompt}{response}"
    """What is sent."""
    bos_token: str = ""
    """Taken off the start of what is sent: the other server adds its own."""

    @property
    def _path(self) -> str:
        return "/predict" if self.api == "tei" else "/classify"

    def _make_body(self, sample: Sample) -> Mapping[str, Any]:
        text = fill(self.template, sample, self.question_between).removeprefix(self.bos_token)
        if self.api == "tei":
            return {"inputs": text, "raw_scores": True, "truncate": False}
        named = {"model": self.model} if self.model else {}
        if self.api == "sglang":
            return {**named, "text": [text]}
        return {**named, "input": [text], "use_activation": False}

    async def _ask(self, post: Post, body: Mapping[str, Any]) -> float:
        answer = await post(body)
        try:
            return self._choose(self._read(answer))
        except ValidationError:  # its own message may show the key, if the server sent it back
            raise RemoteError(
                f"an answer that is not of {self.api}'s form from {self._client.url}: "
                f"{self._client.quote(answer)}"
            ) from None

    def _read(self, answer: bytes) -> Mapping[int | str, float]:
        """The scores by class: its number, or its label with TEI, which sorts them."""
        match self.api:
            case "vllm":
                return dict(enumerate(_VLLM.validate_json(answer).data[0].probs))
            case "sglang":
                return dict(enumerate(_SGLANG.validate_json(answer)[0].embedding))
            case "tei":
                classes = _TEI.validate_json(answer)
                scores: dict[int | str, float] = {one.label: one.score for one in classes}
                if len(scores) < len(classes):
                    raise RemoteError("several classes of the model have the same label")
                return scores

    def _choose(self, scores: Mapping[int | str, float]) -> float:
        option = "class_label" if self.api == "tei" else "class_index"
        wanted = self.class_label if self.api == "tei" else self.class_index
        if wanted is None:
            if len(scores) != 1:
                raise RemoteError(f"the model has {len(scores)} classes: {option} must name one")
            return next(iter(scores.values()))
        if wanted not in scores:
            known = self._client.quote(", ".join(map(str, scores)))
            raise RemoteError(f"the model has no class {wanted!r} ({option}); it has {known}")
        return scores[wanted]
