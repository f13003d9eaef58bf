"""Training methods, one paper each; none imports another."""
