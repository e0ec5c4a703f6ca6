"""The commands of `python -m sar`, a module each. Each module's `main` parses its own arguments."""
