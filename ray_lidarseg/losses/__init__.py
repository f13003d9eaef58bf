"""Tensors to scalars, one file per family."""
