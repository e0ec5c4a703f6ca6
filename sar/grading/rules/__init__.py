"""Rules: where a response states its answer, and when that answer equals the label.

In the comments, an id in parentheses such as (math-boxed-012) names the case in
tests/sar/grading/cases.jsonl that fails without the rule.
"""
