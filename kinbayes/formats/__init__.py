"""Readers and writers, one foreign format a file."""
