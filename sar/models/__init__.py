"""The bundled demo model: its weights, the word problems that it solves, and its training.

`BUNDLED_MODEL` is the folder of the weights. Its README.md is the model card.
"""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "demo"
