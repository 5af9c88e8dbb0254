"""The statistics behind proposals: prior, posterior and acquisition. No language model."""
