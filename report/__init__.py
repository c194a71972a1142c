"""Pages about runs, and the comparisons that they draw."""
