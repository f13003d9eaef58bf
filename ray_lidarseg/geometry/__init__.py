"""Poses, cameras, grids, range images, laser bands and mixing."""
