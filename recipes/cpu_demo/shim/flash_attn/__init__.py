"""Stands in for flash-attn, which needs a GPU: what OpenRLHF 0.11.2 imports from it at start."""
