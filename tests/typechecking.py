"""The type checker of the test run: beartype, which takes an int where a float is meant, as PEP 484 has it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
