"""Where chains and searches begin."""
