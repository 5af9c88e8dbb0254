"""What is tuned: stages, models, costs, and the allocations that fit a budget."""
