"""The kernel from its own file of machine code: the same numbers, without numba."""

import json
import subprocess
import sys

import pytest

import kinbayes as kb
from kinbayes.ode import loops_code

PROGRAM = """
import json, sys
def use_numba():
    import numba, numpy
    assert numba.njit(lambda n: numpy.ones(n).sum())(3) == 3.0  # takes memory and gives it back
if "before" in sys.argv:
    use_numba()
import kinbayes as kb
model = kb.read_sbml(sys.argv[1])
found = kb.simulate(model, [0.0, 1.0, 10.0])
if "after" in sys.argv:
    use_numba()
if len(sys.argv) > 2:
    from kinbayes.ode import kernel, loops_code
    assert kernel.evaluate.address != loops_code.address("kernel", "evaluate")
print(json.dumps(["numba" in sys.modules, [found[name].values.tolist() for name in found]]))
"""


@pytest.fixture
def path():
    if not loops_code._path("kernel", "evaluate").is_file():
        pytest.skip("numba's cache was filled before the file of machine code could be written")
    return kb.example("conversion_reaction").parent / "model.xml"


def ran(*args):
    found = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, args)], check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def test_a_first_simulation_loads_no_numba_and_gives_the_same_bits(path):
    assert loops_code.address("kernel", "evaluate") == loops_code.address("kernel", "evaluate")
    is_loaded, found = ran(path)
    assert not is_loaded
    for order in (["before"], ["after"], ["before", "after"]):  # both in one process
        is_loaded, with_numba = ran(path, *order)
        assert is_loaded
        assert with_numba == found
    here = kb.simulate(kb.read_sbml(path), [0.0, 1.0, 10.0])
    assert [here[name].values.tolist() for name in here] == found
