"""The server's command line, read without the settings of whoever runs the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from unittest import mock

import pytest

from reward_server import command_line
from reward_server.config import ENV_PREFIX, ServerConfig

ParseArgs = Callable[[Sequence[str], Mapping[str, str]], ServerConfig]


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the server's settings from the environment."""
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def parse_args(no_settings: None) -> ParseArgs:
    """Returns the configuration from a command line and some variables."""

    def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> ServerConfig:
        with mock.patch.dict(os.environ, environ):
            return command_line.parse_args(arguments)

    return parse
