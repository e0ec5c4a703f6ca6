"""The report of a comparison: HTML, Markdown, JSON and figures."""
