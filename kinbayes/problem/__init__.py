"""The posterior of a model and its data."""
