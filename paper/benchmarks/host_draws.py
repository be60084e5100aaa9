"""Measure what a draw takes in hosts beside our own driver, on lynx_hare: kernels of NumPyro, step methods of PyMC.

batch    Compiled loops of NumPyro beside our own, all chains in one batch: gradients, each waiting for the one before,
         and draws after a warmup.
chain    Draws of one chain of PyMC after tuning, beside `kinbayes.sample`: the step method's calls alone, and all of
         `pm.sample`, its traces included; with one step a draw, and with as many as by default.

python paper/benchmarks/host_draws.py
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
from collection import arguments
from numpyro.infer import MCMC, NUTS
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import potential_energy
from rounds import Contestant, clock, fastest, tell, write

import kinbayes as kb
from kinbayes.hosts import numpyro as kernels
from kinbayes.hosts import pymc as step_methods
from kinbayes.hosts.numpyro_priors import site_name
from kinbayes.run.choice import target
from kinbayes.run.loop import pieces
from kinbayes.samplers import SAMPLERS

STEP_METHODS = {
    "random_walk": step_methods.Metropolis,
    "adaptive_metropolis": step_methods.AdaptiveMetropolis,
    "dream": step_methods.Dream,
    "parallel_tempering": step_methods.ParallelTempering,
}
WARMUP, DRAWS = 500, 2000  # of PyMC's chain


# ---- NumPyro, a batch


def gradient_loops(problem: kb.Problem, U: np.ndarray) -> list[Contestant]:
    """Return loops of values and gradients of a batch: the problem's own, and those of NumPyro's model."""
    num, model, names = 200, kb.to_numpyro(problem), [site_name(p) for p in problem.estimated]

    def energy(x: jax.Array) -> jax.Array:
        return potential_energy(model, (), {}, dict(zip(names, x, strict=True)))

    def own(value_and_grad: Callable, U: jax.Array) -> tuple[jax.Array, jax.Array]:
        prior, likelihood, prior_gradient, likelihood_gradient = value_and_grad(U)
        return prior + likelihood, prior_gradient + likelihood_gradient

    def loop(evaluate: Callable, start: jax.Array) -> jax.Array:
        def body(_, carry: tuple) -> tuple:
            value, gradient = evaluate(carry[0])
            return carry[0] + 1e-12 * jnp.tanh(gradient), carry[1] + value

        return jax.lax.fori_loop(0, num, body, (start, jnp.zeros(len(start))))[1]

    ours = jax.jit(lambda value_and_grad, U: loop(lambda u: own(value_and_grad, u), U))
    theirs = jax.jit(lambda X: loop(jax.vmap(jax.value_and_grad(energy)), X))
    U, X = jnp.asarray(U), jax.vmap(problem.unconstrain)(jnp.asarray(U))
    return [
        clock("gradient/kinbayes", lambda: ours(problem.batched.value_and_grad, U).block_until_ready(), units=num),
        clock("gradient/NumPyro", lambda: theirs(X).block_until_ready(), units=num),
    ]


def draw_loops(name: str, problem: kb.Problem, U: np.ndarray, kernel: MCMCKernel, *, steps: int) -> list[Contestant]:
    """Return loops of draws after a warmup: of a sampler in our driver, and of a kernel of NumPyro's."""
    num, num_warmup, key, host = 40, 300, jax.random.key(0), target(problem)
    fixed = {"factory": SAMPLERS[name], "settings": (), "num_warmup": num_warmup * steps}

    def advanced(state: object, start: int, length: int) -> object:
        counts = map(jnp.array, (start, length, steps))
        return jax.block_until_ready(pieces.sample(host, key, state, *counts, **fixed, capacity=num_warmup))

    ours, _ = advanced(pieces.start_sampler(host, key, jnp.asarray(U), **fixed), 0, num_warmup)
    sites = dict(zip(map(site_name, problem.estimated), jax.vmap(problem.unconstrain)(U).T, strict=True))
    together = {"num_chains": len(U), "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=1, **together)
    mcmc.warmup(key, init_params=sites)

    @jax.jit
    def theirs(state: object) -> object:
        return jax.lax.fori_loop(0, num, lambda _, state: kernel.sample(state, (), {}), state)

    return [
        clock(f"draw of {name}/kinbayes", lambda: advanced(ours, num_warmup, num), units=num),
        clock(f"draw of {name}/NumPyro", lambda: jax.block_until_ready(theirs(mcmc.post_warmup_state)), units=num),
    ]


def batch(problem: kb.Problem, *, rounds: int, chains: int = 4, steps: int = 20) -> list[dict[str, object]]:
    """Return the times of all loops, one a row: of all chains together."""
    U = np.asarray(problem.nominal) + 0.02 * np.random.default_rng(0).normal(size=(chains, problem.dim))
    model = kb.to_numpyro(problem)
    contestants = [
        *gradient_loops(problem, U),
        *draw_loops("adaptive_metropolis", problem, U, kernels.AdaptiveMetropolis(model, steps=steps), steps=steps),
        *draw_loops("dream", problem, U, kernels.Dream(model, steps=steps), steps=steps),
        *draw_loops("nuts", problem, U, NUTS(model, dense_mass=True), steps=1),
    ]
    times = fastest(contestants, rounds=rounds)
    rows = []
    for name, seconds in times.items():
        what, host = name.split("/")
        ratio = seconds / times[f"{what}/kinbayes"]
        rows.append({"problem": problem.name, "chains": chains, "what": what, "host": host})
        rows[-1] |= {"microseconds": 1e6 * seconds, "ratio": ratio}
        tell(rows[-1])
    return rows


# ---- PyMC, a chain


def chain(problem: kb.Problem, *, repeats: int) -> list[dict[str, object]]:
    """Return, for every sampler and two numbers of steps a draw, the times of a draw: the least of some repeats."""
    rows = []
    for sampler, kind in STEP_METHODS.items():
        usual = problem.dim if sampler == "parallel_tempering" else 5 * problem.dim
        settings = {"num_warmup": WARMUP} if sampler in ("dream", "parallel_tempering") else {}
        for steps in (1, usual):
            runs = [draw_times(problem, sampler, partial(kind, steps=steps, **settings), steps) for _ in range(repeats)]
            least = {host: min(run[host] for run in runs) for host in runs[0]}
            for host, seconds in least.items():
                row = {"problem": problem.name, "chains": 1, "what": f"draw of {sampler}, {steps} steps", "host": host}
                rows.append(row | {"microseconds": 1e6 * seconds, "ratio": seconds / least["kinbayes"]})
                tell(rows[-1])
    return rows


def draw_times(problem: kb.Problem, sampler: str, make: Callable, steps: int) -> dict[str, float]:
    """Return seconds a draw of one chain."""
    lengths = {"draws": DRAWS, "chains": 1}
    own = kb.sample(problem, sampler, warmup=WARMUP, thin=steps, initial="nominal", progress=False, **lengths)
    times = []
    with kb.to_pymc(problem) as model:
        step = make()
        pm.sample(
            tune=WARMUP,
            cores=1,
            step=step,
            progressbar=False,
            compute_convergence_checks=False,
            random_seed=1,
            callback=lambda trace, draw: times.append(time.perf_counter()),
            **lengths,
        )
        step.set_rng(np.random.default_rng(1))
        point = model.initial_point()
        for _ in range(WARMUP):
            point, _ = step.step(point)
        step.stop_tuning()
        began = time.perf_counter()
        for _ in range(DRAWS):
            point, _ = step.step(point)
        alone = time.perf_counter() - began
    return {
        "kinbayes": own.attrs["seconds_draws"] / DRAWS,
        "PyMC, step method": alone / DRAWS,
        "PyMC, pm.sample": (times[-1] - times[WARMUP]) / (DRAWS - 1),
    }


def main() -> None:
    """Write host_draws.csv."""
    chosen = arguments(__doc__).parse_args()
    lynx_hare = kb.read_petab(kb.example("lynx_hare"))
    rows = batch(lynx_hare, rounds=3 if chosen.quick else 40) + chain(lynx_hare, repeats=1 if chosen.quick else 3)
    write(rows, Path(chosen.out) / "host_draws.csv")


if __name__ == "__main__":
    main()
