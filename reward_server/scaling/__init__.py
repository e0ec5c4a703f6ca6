"""Scorers on Ray: the front's pool of them, the process that talks to Ray, and the scorer itself.

The front never imports Ray, because Ray ends the process of a driver that has lost its cluster.

    ScorerPool (front) -- connection --> driver (child process) -- Ray --> ScorerActor (anywhere)
"""
