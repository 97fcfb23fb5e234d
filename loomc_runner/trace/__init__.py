"""Pages of runs: what they did, as a tree, for a browser."""
