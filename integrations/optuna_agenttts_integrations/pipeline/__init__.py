"""Pipelines: stages, aggregation of samples, execution on instances, evaluation."""
