"""Sparse convolution: tensors, kernel maps, backends."""
