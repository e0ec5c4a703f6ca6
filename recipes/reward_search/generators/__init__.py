"""Where candidates come from: a chat endpoint, a grammar, or a folder."""
