"""Miniature SAM and CLIP, trained on the synthetic world: the whole system runs without a download."""
