"""Terms that ask a model elsewhere, over HTTP."""
