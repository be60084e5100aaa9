"""The same posterior inside other probabilistic languages."""
