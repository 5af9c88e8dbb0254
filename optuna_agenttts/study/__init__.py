"""Contents of a study: trials as evidence, rounds of the agent, earlier studies, spending."""
