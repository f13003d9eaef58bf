"""Semi-supervised LiDAR semantic segmentation on Ray: few labels in, a LiDAR-only model and labels for the rest out."""

__version__ = "0.1.0"
