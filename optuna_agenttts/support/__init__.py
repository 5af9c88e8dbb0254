"""What all rooms use: marks of experimental parts, imports on first use, resets after forks."""
