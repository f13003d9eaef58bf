"""Mergeable counts and what is computed from them."""
