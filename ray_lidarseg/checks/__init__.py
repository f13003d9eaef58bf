"""What may be wrong with a data set, measured and explained."""
