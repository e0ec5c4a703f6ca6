"""Starts OpenRLHF with the paper's settings; recipes/grpo.sh and recipes/ppo.sh run it.

Standard library only: the environment that trains may have nothing but openrlhf.
"""
