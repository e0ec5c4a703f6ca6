"""A comparison as a reader sees it: Markdown, HTML, figures."""
