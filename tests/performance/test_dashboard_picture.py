"""The documentation's picture of the dashboard: taken in a real browser, of a run with an alarm."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from performance.alarms.synthetic import Phase, make_run
from performance.dashboard_picture import main

pytestmark = pytest.mark.slow  # a browser


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_it_takes_a_picture_of_a_run(tmp_path: Path) -> None:
    log = tmp_path / "run-0" / "rewards" / "rewards-1-1-00001.jsonl"
    log.parent.mkdir(parents=True)
    gamed = make_run(0, has_term=True, num_steps=100, end=Phase(accuracy=0.1, term=0.99))
    log.write_text("".join(one.to_json() + "\n" for one in gamed))
    for given in (tmp_path / "run-0", log):
        output = tmp_path / "a.png"
        assert main([str(given), "--output", str(output)]) == 0
        with Image.open(output) as image:
            assert (image.format, image.size) == ("PNG", (1400, 1340))
            pixels = np.asarray(image.convert("RGB")).astype(int)
        # The colours of an alarm that rings, and of the charts' lines.
        for color in ((0xB3, 0x26, 0x1E), (0x1F, 0x6F, 0xB4)):
            assert (abs(pixels - color).max(axis=-1) < 24).sum() > 500
        output.unlink()


def test_a_folder_without_a_log_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--output", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "a.png").exists()
