"""What a trained network's points are worth: figures, each with the numbers behind it."""
