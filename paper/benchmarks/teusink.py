"""A problem of yeast glycolysis: the model of Teusink et al. (2000), its maximal rates, and synthetic time courses.

The model is BIOMD0000000064 (Teusink et al. 2000, Can yeast glycolysis be understood in terms of in vitro kinetics of
the constituent enzymes? Testing biochemistry, European Journal of Biochemistry 267,
doi:10.1046/j.1432-1327.2000.01527.x). What is estimated are the maximal rates of its enzymes, log-uniform within a
factor of ten of their values, from the concentrations of its metabolites at fifteen times, with normal noise of 5 %
drawn with a seed.
"""

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

import kinbayes as kb
from kinbayes.model.expressions import evaluate

NAME = "BIOMD0000000064"
TIMES = np.linspace(0.1, 4.0, 15)  # minutes, most of them before the steady state
NOISE, FLOOR = 0.05, 1e-4  # of a concentration; in mM
FACTOR = 10.0


def teusink(data: Path, *, seed: int = 0) -> kb.Problem:
    """Return the problem.

    Parameters
    ----------
    data
        Folder with biomodels.zip.
    seed
        Seed of the noise.
    """
    with zipfile.ZipFile(data / "biomodels.zip") as archive, tempfile.TemporaryDirectory() as folder:
        member = next(name for name in archive.namelist() if name.endswith(f"{NAME}.xml"))
        path = Path(folder) / f"{NAME}.xml"
        path.write_bytes(archive.read(member))
        model = kb.read_sbml(path)
    truth = maximal_rates(model)
    parameters = [
        kb.Parameter(name, kb.LogUniform(value / FACTOR, value * FACTOR), scale="log10", nominal=value)
        for name, value in truth.items()
    ]
    states = list(model.derivatives)
    observables = [
        kb.Observable(f"{name}_measured", name, kb.noise.normal(f"{NOISE} * {name} + {FLOOR}")) for name in states
    ]
    rows = [(f"{name}_measured", t, 1.0) for name in states for t in TIMES]
    table = pd.DataFrame(rows, columns=["observableId", "time", "measurement"])
    problem = kb.Problem(model, parameters, observables, table)
    exact = np.asarray(problem.simulated(problem.nominal))
    noise = np.random.default_rng(seed).normal(size=len(exact))
    return problem.with_data(exact + (NOISE * exact + FLOOR) * noise)


def maximal_rates(model: kb.Model) -> dict[str, float]:
    """Return the maximal rates of a model, which are constants of its kinetic laws, by their names."""
    names = [name for name in model.initial if name.partition(".")[2].startswith("Vm")]
    return dict(zip(names, map(float, evaluate([model.initial[name] for name in names], {})), strict=True))
