"""Certified radii for each pixel: how much larger they are than one radius for all, and what they say about a network."""
