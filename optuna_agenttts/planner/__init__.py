"""Statistics behind the proposals: prior, posterior and acquisition. Calls no language model."""
