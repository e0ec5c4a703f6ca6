"""What generates the responses: transformers, vLLM, or a server that speaks OpenAI's protocol."""
