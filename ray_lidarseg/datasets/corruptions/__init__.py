"""Scans in bad weather and from failing sensors: those of Robo3D, from their formulas; and failing cameras."""
