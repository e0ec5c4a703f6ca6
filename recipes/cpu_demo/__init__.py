"""A reinforcement learning run that fits two CPU cores; `python -m recipes.cpu_demo` runs it."""
