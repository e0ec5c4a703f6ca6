"""Rule-based correctness: a response's final answer against the label's."""
