"""The loop that advances chains and searches, and what it keeps."""
