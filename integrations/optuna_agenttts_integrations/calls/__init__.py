"""Calls of models: endpoints, reuse of completions, embeddings."""
