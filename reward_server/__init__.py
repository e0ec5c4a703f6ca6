"""OpenRLHF's remote reward endpoint: correctness plus Self-Aligned Reward, over HTTP."""
