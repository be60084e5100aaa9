"""Learning a proposal, and measuring what its points are worth."""
