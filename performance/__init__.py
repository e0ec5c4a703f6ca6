"""Speed and memory, measured side by side: `make bench`; on a GPU, `python -m performance.gpu`."""
