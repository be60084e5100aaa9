"""SBML: from a file's text to a Model."""
