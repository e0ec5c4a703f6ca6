"""Candidates: reward functions that a program or a language model wrote, checked and run safely."""
