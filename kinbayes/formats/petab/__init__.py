"""PEtab: reading problems of both versions, starting them, and writing them."""
