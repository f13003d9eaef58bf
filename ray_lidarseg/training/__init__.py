"""A run without Ray: loop, optimiser, validation, checkpoints, run folder, tracking."""
