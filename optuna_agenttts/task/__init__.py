"""Tasks to tune: stages, models, costs, and the allocations that fit a budget."""
