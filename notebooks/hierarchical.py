# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Four batches, one population
#
# A reaction A → B → A runs in four batches. Its rate constant is not the same in each: temperature and catalyst differ
# a little. What can be said of the rate constants *in general*, from which the four are drawn?
#
# That is a hierarchical model: each batch has its own rate constant, and all rate constants have a common mean and
# spread. kinbayes simulates the batches and differentiates their likelihoods; PyMC states how they hang together.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import kinbayes as kb
from kinbayes.hosts.pymc import likelihood

# %% [markdown]
# ## Kinetics and data
#
# The model is the conversion reaction among the examples of kinbayes, which starts with 10 mmol/l of A and 1 of B. Here
# the rate constant of A → B is estimated, and all else is known.

# %%
model = kb.read_sbml(kb.example("conversion_reaction").parent / "model.xml")
times = [0.5, 1.0, 2.0, 4.0, 6.0, 9.0, 12.0, 16.0]
blank = pd.DataFrame({"observableId": "A", "time": times, "measurement": 0.0})
problem = kb.Problem(
    model,
    parameters=[kb.Parameter("k1", scale="log10", lower=1e-3, upper=1e2, unit="1/min")],
    observables=[kb.Observable("A", "A", kb.noise.normal("0.5"))],
    data=blank,
)

# %% [markdown]
# The truth: over all batches log k1 has the mean log 0.3 and the standard deviation 0.4. Four batches are drawn, and
# measured with a standard deviation of 0.5 mmol/l.

# %%
TRUTH = {"mean_log_k1": np.log(0.3), "spread": 0.4}
rng = np.random.default_rng(1)
rates = np.exp(rng.normal(TRUTH["mean_log_k1"], TRUTH["spread"], size=4))
batches = []
for rate in rates:
    rows = problem.rows(np.array([[np.log10(rate)]]))
    measured = problem.draw_measurements(rng, rows.simulated[0], rows.noise[0])
    batches.append(problem.with_data(blank.assign(measurement=measured)))
print("rate constants of the batches, 1/min:", rates.round(3))

# %% [markdown]
# `with_data` makes the same problem with other measurements, and compiles nothing.
#
# ## The hierarchy
#
# `likelihood` adds the measurements of a problem to a model of PyMC, given the problem's parameters. They are whatever
# PyMC can express, on their natural scale. The priors of the problem itself play no role here.

# %%
with pm.Model() as hierarchy:
    mean_log_k1 = pm.Normal("mean_log_k1", mu=-1.0, sigma=1.5)
    spread = pm.HalfNormal("spread", sigma=1.0)
    k1 = pm.LogNormal("k1", mu=mean_log_k1, sigma=spread, shape=len(batches))
    for number, batch in enumerate(batches):
        likelihood(batch, {"k1": k1[number]}, name=f"batch_{number}")

print(hierarchy.str_repr())

# %% [markdown]
# PyMC's sampler follows gradients through the simulations up to the mean and the spread.

# %%
with hierarchy:
    idata = pm.sample(
        1000,
        tune=1000,
        chains=4,
        nuts_sampler="nutpie",
        target_accept=0.95,
        random_seed=1,
        progressbar=False,
    )

# %%
posterior = idata.posterior
for name, truth in TRUTH.items():
    low, high = posterior[name].quantile([0.025, 0.975]).values
    print(f"{name}: truth {truth:.2f}, mean {float(posterior[name].mean()):.2f}, 95% from {low:.2f} to {high:.2f}")

# %% [markdown]
# Each rate constant is known well, while four batches tell little of the spread between batches, and the posterior says
# so: a spread twice the true one would be no surprise.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for number, rate in enumerate(rates):
    left.hist(posterior["k1"].values[..., number].ravel(), bins=60, density=True, alpha=0.6)
    left.axvline(rate, color=f"C{number}", linestyle="--")
left.set(xlabel="k1 of the batches, 1/min", ylabel="posterior density")
right.hist(posterior["spread"].values.ravel(), bins=80, density=True, color="0.6")
right.axvline(TRUTH["spread"], color="black", linestyle="--")
right.set(xlabel="standard deviation of log k1 over batches", xlim=(0, 2.5))

# %% [markdown]
# What will the next batch do? Its rate constant is drawn from the population: a prediction with the uncertainty of the
# mean, of the spread, and of the draw itself.

# %%
with hierarchy:
    pm.LogNormal("k1_next", mu=mean_log_k1, sigma=spread)
    following = pm.sample_posterior_predictive(
        idata.sel(draw=slice(None, None, 20)), var_names=["k1_next"], random_seed=1, progressbar=False
    )
low, high = following.posterior_predictive["k1_next"].quantile([0.05, 0.95]).values
print(f"k1 of the next batch: 90% between {low:.2f} and {high:.2f} 1/min")
