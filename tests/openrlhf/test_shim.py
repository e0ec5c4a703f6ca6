"""What the shim puts in place of flash attention computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import torch
from openrlhf.models import Actor
from transformers import AutoTokenizer

folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
texts = ["Ana has 3 coins. She gets 4 more.", "Tom gives 5 apples to Eve and has 2 left. "
         "How many did he have at first?", "Answer: 7"]
rows = [tokenizer.encode(text) for text in texts]
length = max(map(len, rows))
ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
actor = Actor(folder, packing_samples=True).eval()
actor.model.float()
with torch.no_grad():
    together = actor(ids, mask[:, 1:], mask)
    alone = [actor.model(torch.tensor([row])).logits[0, :-1].log_softmax(-1)[range(len(row) - 1),
             row[1:]] for row in rows]
print(json.dumps([(together[n, -len(one):] - one).abs().max().item()
                  for n, one in enumerate(alone)]))
"""


def test_packed_samples_do_not_see_each_other(
    run_environ: dict[str, str], bundled_model_path: Path
) -> None:
    """OpenRLHF's actor on three samples in one row, against each sample in a pass of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundled_model_path)],
        env={**os.environ, **run_environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == 3
    assert max(differences) < 1e-4
