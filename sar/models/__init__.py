"""The bundled demo model: where it lies, the word problems it knows, how it was trained.

`BUNDLED_MODEL` is the folder of the weights; `demo/README.md` in it is the model card.
"""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "demo"
