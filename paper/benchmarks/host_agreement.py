"""Compare posteriors of lynx_hare by the samplers of PyMC and NumPyro with those of our driver.

Means and standard deviations of all parameters on their scale, and their distance in combined standard errors.

python paper/benchmarks/host_agreement.py
"""

from pathlib import Path

import arviz as az
import jax
import numpy as np
import pymc as pm
from collection import arguments
from numpyro.infer import MCMC, NUTS
from rounds import tell, write

import kinbayes as kb
from kinbayes.problem.parameters import scaled

CHAINS, WARMUP = 4, 1000


def moments(idata: az.InferenceData, problem: kb.Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations (2, dim) on the parameters' scale, and their standard errors."""
    theta = np.stack([idata.posterior[name].values for name in problem.parameter_names], axis=-1)
    x = np.moveaxis(scaled(theta, problem.scale), -1, 0)
    mean, sd = x.mean(axis=(1, 2)), x.std(axis=(1, 2))
    squares = (x - mean[:, None, None]) ** 2
    of_mean, of_square = (v.std(axis=(1, 2)) / np.sqrt([az.ess(line) for line in v]) for v in (x, squares))
    return np.array([mean, sd]), np.array([of_mean, of_square / (2 * sd)])


def by_pymc(problem: kb.Problem, draws: int) -> az.InferenceData:
    """Return the posterior by PyMC's No-U-Turn sampler."""
    with kb.to_pymc(problem):
        return pm.sample(draws, tune=WARMUP, chains=CHAINS, cores=1, random_seed=1, progressbar=False)


def by_numpyro(problem: kb.Problem, draws: int) -> az.InferenceData:
    """Return the posterior by NumPyro's No-U-Turn sampler."""
    settings = {"num_warmup": WARMUP, "num_samples": draws, "num_chains": CHAINS, "chain_method": "vectorized"}
    mcmc = MCMC(NUTS(kb.to_numpyro(problem)), progress_bar=False, **settings)
    mcmc.run(jax.random.key(1))
    return az.from_dict({name: np.asarray(v) for name, v in mcmc.get_samples(group_by_chain=True).items()})


def main() -> None:
    """Write host_agreement.csv."""
    chosen = arguments(__doc__).parse_args()
    problem, draws = kb.read_petab(kb.example("lynx_hare")), 250 if chosen.quick else 5000
    ours = kb.sample(problem, draws=draws, warmup=WARMUP, chains=CHAINS, seed=1, progress=False)
    own, own_errors = moments(ours, problem)
    rows = []
    for host, sampled in (("PyMC", by_pymc), ("NumPyro", by_numpyro)):
        found, errors = moments(sampled(problem, draws), problem)
        distances = (found - own) / np.hypot(errors, own_errors)
        for k, name in enumerate(problem.parameter_names):
            row = {"problem": problem.name, "host": host, "parameter": name, "scale": problem.scale[k]}
            for j, kind in enumerate(("mean", "sd")):
                row |= {f"{kind}_host": found[j, k], f"{kind}_kinbayes": own[j, k], f"{kind}_distance": distances[j, k]}
            rows.append(row)
            tell(row)
        print(f"{host}: largest distance {np.abs(distances).max():.2f} combined standard errors")
    write(rows, Path(chosen.out) / "host_agreement.csv")


if __name__ == "__main__":
    main()
