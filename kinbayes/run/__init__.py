"""Running algorithms: one loop for all of them, and the verbs that users call."""
