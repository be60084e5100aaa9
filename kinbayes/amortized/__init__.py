"""Learned proposals: archives of simulations, generative networks trained on them, and what may be asked of these."""
