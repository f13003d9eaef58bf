"""Image teachers: masks and dense features."""
