"""Integrating the model."""
