"""What a kinetic model is."""
