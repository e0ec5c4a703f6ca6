"""Rule-based correctness: compares a response's final answer with the label."""
