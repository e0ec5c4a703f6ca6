"""The options that all terms share which ask a model elsewhere, and how such a term asks."""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from sar.terms.base import OPTIONS, UNSHOWN, Sample, Term
from sar.terms.remote.answers import SharedAnswers
from sar.terms.remote.client import Post, RemoteClient
from sar.terms.remote.template import check_template

_VARIABLE_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
# What can travel in a header: ASCII without spaces.
_PRINTABLE = re.compile(r"[!-~]+")


def _check_url(url: str) -> str:
    if any(mark in url for mark in "@?#"):
        raise PydanticCustomError(UNSHOWN, "without a user, password or query; see key_env")
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # no port, or brackets that do not fit
        is_complete = False
    if not is_complete or not _PRINTABLE.fullmatch(url):
        raise ValueError("an address, such as http://localhost:8000")
    return url


def _check_key_variable(name: str) -> str:
    if not _VARIABLE_NAME.fullmatch(name):
        raise PydanticCustomError(
            UNSHOWN,
            "the name of an environment variable, in capitals; the key stays out of the file",
        )
    if not (key := os.environ.get(name)):
        raise ValueError("an environment variable that is set")
    if not _PRINTABLE.fullmatch(key):
        raise ValueError("a variable whose value has only printable ASCII without spaces")
    return name


def _check_marks(marks: list[str]) -> list[str]:
    if len(marks) != 2 or not all(marks):
        raise ValueError('two texts, such as ["<|im_start|>user\\n", "<|im_end|>"]')
    return marks


def _check_placeholders(template: str, info: ValidationInfo) -> str:
    check_template(template)
    if "{question}" in template and not info.data.get("question_between"):
        raise ValueError("without {question}, or question_between must say where a question is")
    return template


Template = Annotated[str, AfterValidator(_check_placeholders)]
"""A text with placeholders: an option that comes after `question_between`."""


class _State(Term):
    """What a term keeps while it runs. No options: the dataclass below does not list them."""

    _client: RemoteClient
    _answers: SharedAnswers


@dataclass(frozen=True, config=OPTIONS, kw_only=True)
class RemoteTerm(_State):
    """A number that a model elsewhere gives for one rollout."""

    url: Annotated[str, AfterValidator(_check_url)]
    """Address of the other server."""
    key_env: Annotated[str, AfterValidator(_check_key_variable)] | None = None
    """Environment variable that holds the API key."""
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] = 32
    """Questions that are open at once, over all requests."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Seconds until an answer must be there, retries included."""
    question_between: Annotated[list[str], AfterValidator(_check_marks)] | None = None
    """The two texts that stand before and after the question in a prompt, for `{question}`."""

    is_remote = True

    def __post_init__(self) -> None:
        address = self.url.rstrip("/")
        if not address.endswith(self._path):
            address += self._path
        client = RemoteClient(
            address,
            os.environ[self.key_env] if self.key_env else None,
            max_concurrency=self.max_concurrency,
            timeout_s=self.timeout_s,
        )
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_answers", SharedAnswers())

    def score(self, sample: Sample) -> float:
        """
        Raises:
            RemoteError, ValueError: no usable answer came before the deadline.
        """
        body = self._make_body(sample)
        key = hashlib.sha256(json.dumps(body).encode()).digest()
        return self._answers.get(key, lambda: self._ask(self._client.start(), body))

    @property
    @abstractmethod
    def _path(self) -> str:
        """Where on the server the model is asked."""

    @abstractmethod
    def _make_body(self, sample: Sample) -> Mapping[str, Any]:
        """What is sent. Equal bodies are asked once."""

    @abstractmethod
    async def _ask(self, post: Post, body: Mapping[str, Any]) -> float:
        """Asks, and reads the answer."""
