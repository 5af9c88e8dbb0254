"""LLM agent that plans rounds of a search: scheduling, prompts, and use of the replies."""
