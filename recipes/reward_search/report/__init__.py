"""The report of a search: one HTML file, a picture, and tables for a documentation page."""
