"""Problems written as PEtab."""
