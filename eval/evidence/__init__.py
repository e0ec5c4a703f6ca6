"""python -m eval evidence: what SAR pays a real model's responses, and changed copies of them."""
