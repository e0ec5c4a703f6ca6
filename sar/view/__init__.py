"""What the rewards of a run do, for people: an index over decisions, queries, and a page."""
