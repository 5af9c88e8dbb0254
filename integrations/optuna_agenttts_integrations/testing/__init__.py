"""Stand-ins for servers and models, for tests and offline examples."""
