"""The store and the numbers read off it."""
