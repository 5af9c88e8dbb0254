"""What a study holds: trials as evidence, rounds of the agent, earlier studies, spending."""
