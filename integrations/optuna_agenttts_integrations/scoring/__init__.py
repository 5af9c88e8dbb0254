"""How results are scored: metrics, and a sandbox for programs that models write."""
