"""Packed points to per-point features and logits."""
