"""What runs on Ray: cluster, storage, checkpoints, step loop, tracking."""
