"""Samplers without gradients as kernels of NumPyro, for any model with continuous sites.

    kernel = ParallelTempering(model, rungs=8, steps=10)
    mcmc = MCMC(kernel, num_warmup=1000, num_samples=1000, num_chains=4, chain_method="vectorized")
    mcmc.run(jax.random.key(0), extra_fields=("potential_energy", "info.swap_rate"))

They move in NumPyro's unconstrained space. With `chain_method="vectorized"` a sampler sees all chains, so that they
learn from one another; otherwise every chain is by itself.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_uniform
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import initialize_model, potential_energy
from numpyro.primitives import Messenger
from numpyro.util import is_prng_key

from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis
from kinbayes.samplers.base import Sampler, SamplerFactory, SamplerState, StepInfo, Target, silent
from kinbayes.samplers.dream import dream
from kinbayes.samplers.parallel_tempering import parallel_tempering
from kinbayes.samplers.random_walk import random_walk

Settings = tuple[tuple[str, object], ...]

# Of a draw, as in `kinbayes.sample`: a Metropolis sampler takes some 3 steps per parameter for one effective draw of a
# normal posterior, and a ladder's steps cost as many as it has rungs.
STEPS_PER_PARAMETER, LADDER_STEPS_PER_PARAMETER = 5, 1


class KernelState(NamedTuple):
    """Hold the chains between two draws; without their axis where there is one chain.

    Attributes
    ----------
    z
        The latent sites in unconstrained space, by name.
    potential_energy
        Minus the log density in that space.
    log_likelihood
        Of the observed sites and factors.
    accept_prob
        Mean acceptance rate of the draw's steps.
    num_steps
        Evaluations of the model that they took.
    info
        What the sampler told of the last of them.
    inner
        The sampler's state, always with the chains' axis.
    i
        Number of steps since the start.
    rng_key
        Random key of the next draw.
    """

    z: PyTree
    potential_energy: Float[Array, "*chains"]
    log_likelihood: Float[Array, "*chains"]
    accept_prob: Float[Array, "*chains"]
    num_steps: Int[Array, "*chains"]
    info: StepInfo
    inner: SamplerState
    i: Int[Array, ""]
    rng_key: Array


class SamplerKernel(MCMCKernel):
    """Run one of the samplers on a model's log prior and log likelihood.

    The likelihood is what observed sites and factors say, the prior what latent sites do. Of a state, `extra_fields`
    may name `potential_energy`, `log_likelihood`, `accept_prob`, `num_steps`, and the fields of `info`.

    Parameters
    ----------
    model
        The model.
    factory, settings
        The sampler, and its settings as pairs of name and value.
    steps
        Number of steps of a draw, of which the last gives its point; by default some for every parameter.
    init_strategy
        Where chains start, one of NumPyro's strategies.

    Raises
    ------
    ValueError
        If a draw has no step; when a chain starts, if a latent site is discrete or the sampler refuses a setting.
    """

    sample_field = "z"
    _steps_per_parameter = STEPS_PER_PARAMETER

    def __init__(
        self,
        model: Callable,
        factory: SamplerFactory,
        settings: Settings,
        *,
        steps: int | None,
        init_strategy: Callable,
    ) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        self.model, self._factory, self._settings = model, factory, dict(settings)
        self._given_steps, self._init_strategy = steps, init_strategy
        self._is_vectorized = False

    # ---- what NumPyro asks

    @property
    def is_ensemble_kernel(self) -> bool:
        """Whether one state holds several chains."""
        return self._is_vectorized

    def get_diagnostics_str(self, state: KernelState) -> str:
        """Return what the progress bar shows."""
        return f"{int(jnp.mean(state.num_steps))} evaluations, acc. prob={float(jnp.mean(state.accept_prob)):.2f}"

    def postprocess_fn(self, model_args: tuple, model_kwargs: Mapping) -> Callable:
        """Return the map from unconstrained values of one chain to sites."""
        return self._postprocess(*model_args, **model_kwargs)

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: PyTree,
        model_args: tuple,
        model_kwargs: dict,
    ) -> KernelState:
        """Return the first state, of one chain or, for several keys, of as many."""
        self._is_vectorized = not is_prng_key(rng_key)
        start_key, inner_key, run_key = jax.random.split(rng_key[0] if self._is_vectorized else rng_key, 3)
        sites = trace(seed(self.model, start_key)).get_trace(*model_args, **model_kwargs).values()
        latent = [site for site in sites if site["type"] == "sample" and not site["is_observed"]]
        discrete = [site["name"] for site in latent if site["fn"].support.is_discrete]
        if discrete:
            raise ValueError(f"sites {discrete} are discrete, which this kernel cannot move: sum over their values")
        info = initialize_model(
            jax.random.split(start_key, len(rng_key)) if self._is_vectorized else start_key,
            self.model,
            init_strategy=self._init_strategy,
            dynamic_args=True,
            model_args=model_args,
            model_kwargs=model_kwargs,
            validate_grad=False,
        )
        # As initialize_model has them, so that neural networks keep their weights.
        fixed = {name: site["value"] for name, site in info.model_trace.items() if site["type"] in ("param", "mutable")}
        self._fixed_model = substitute(self.model, data=fixed)
        self._volumes = frozenset(f"_{site['name']}_log_det" for site in latent)
        self._postprocess = info.postprocess_fn
        z = info.param_info.z if init_params is None else init_params
        z = z if self._is_vectorized else jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], z)
        first, self._sites_of = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], z))
        self._dim = first.size
        self._steps = self._given_steps or self._steps_per_parameter * self._dim
        self._num_warmup = num_warmup * self._steps
        U = jax.vmap(lambda one: ravel_pytree(one)[0])(z)
        sampler = self._sampler(model_args, model_kwargs)
        inner = sampler.init(inner_key, U)
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sampler.step, inner_key, inner)[1]
        )
        zero = jnp.zeros(len(U))
        return self._state(inner, nothing, zero, zero.astype(int), jnp.array(0), run_key)

    def sample(self, state: KernelState, model_args: tuple, model_kwargs: dict) -> KernelState:
        """Return the state after one draw: some steps, each followed by tuning while warmup lasts."""
        sampler = self._sampler(model_args, model_kwargs)
        rng_key, draw_key = jax.random.split(state.rng_key)

        def step(k: Array, carry: tuple) -> tuple:
            inner, _, accepted, evaluations = carry
            inner, info = sampler.step(jax.random.fold_in(draw_key, k), inner)
            is_warmup = state.i + k < self._num_warmup
            inner = jax.lax.cond(is_warmup, sampler.tune, lambda inner, info: inner, inner, info)
            return inner, info, accepted + info.acceptance_rate, evaluations + info.n_steps

        info = state.info if self._is_vectorized else jax.tree.map(lambda leaf: leaf[None], state.info)
        zero = jnp.zeros_like(info.acceptance_rate)
        carry = (state.inner, info, zero, zero.astype(info.n_steps.dtype))
        inner, info, accepted, evaluations = jax.lax.fori_loop(0, self._steps, step, carry)
        return self._state(inner, info, accepted / self._steps, evaluations, state.i + self._steps, rng_key)

    # ---- what it is made of

    def _state(
        self, inner: SamplerState, info: StepInfo, accepted: Array, evaluations: Array, i: Array, rng_key: Array
    ) -> KernelState:
        z = jax.vmap(self._sites_of)(inner.position)
        told = (z, -(inner.log_prior + inner.log_likelihood), inner.log_likelihood, accepted, evaluations, info)
        if not self._is_vectorized:
            told = jax.tree.map(lambda leaf: leaf[0], told)
        return KernelState(*told, inner, i, rng_key)

    def _sampler(self, model_args: tuple, model_kwargs: dict) -> Sampler:
        """Return the sampler on the model's densities under these arguments."""

        def density(*, is_likelihood: bool) -> Callable:
            part = _Part(self._fixed_model, is_likelihood, self._volumes)

            def of_one(u: Float[Array, " dim"]) -> Float[Array, ""]:
                return -potential_energy(part, model_args, model_kwargs, self._sites_of(u))

            return jax.vmap(of_one)

        log_prior, log_likelihood = density(is_likelihood=False), density(is_likelihood=True)

        def value_and_grad(U: Float[Array, "chains dim"]) -> tuple[Array, Array, Array, Array]:
            values, pullbacks = zip(*(jax.vjp(f, U) for f in (log_prior, log_likelihood)), strict=True)
            return (*values, *(pullback(jnp.ones(len(U)))[0] for pullback in pullbacks))

        walls = jnp.full(self._dim, -jnp.inf), jnp.full(self._dim, jnp.inf)
        densities = map(Partial, (log_prior, log_likelihood, value_and_grad))
        target = Target(*densities, *walls, Partial(_constrain), Partial(_unconstrain))
        return silent(self._factory(target, num_warmup=self._num_warmup, **self._settings))


class _Part(Messenger):
    """Leave the likelihood in a model's density, or the prior: latent sites and the volumes of their transforms."""

    def __init__(self, model: Callable, is_likelihood: bool, volumes: frozenset[str]) -> None:
        self.is_likelihood, self.volumes = is_likelihood, volumes
        super().__init__(model)

    def process_message(self, msg: dict) -> None:
        """Leave a site out, without computing its density."""
        if msg["type"] == "sample":
            is_data = msg["is_observed"] and msg["name"] not in self.volumes
            if is_data != self.is_likelihood:
                msg["fn"] = msg["fn"].mask(False)


def _constrain(x: Float[Array, " dim"]) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
    return x, jnp.zeros(())


def _unconstrain(u: Float[Array, " dim"]) -> Float[Array, " dim"]:
    return u


class Metropolis(SamplerKernel):
    """Move by `kinbayes.samplers.random_walk`: independent Gaussian moves, whose widths warmup tunes.

    Parameters
    ----------
    model
        The model.
    steps
        Number of steps of a draw, of which the last gives its point; by default 5 for every parameter.
    step_size, target_acceptance
        As of `kinbayes.samplers.random_walk`; a step size is in units of the unconstrained space.
    init_strategy
        Where chains start, one of NumPyro's strategies.
    """

    def __init__(
        self,
        model: Callable,
        *,
        steps: int | None = None,
        step_size: float = 0.2,
        target_acceptance: float | None = None,
        init_strategy: Callable = init_to_uniform,
    ) -> None:
        settings = (("step_size", step_size), ("target_acceptance", target_acceptance))
        super().__init__(model, random_walk, settings, steps=steps, init_strategy=init_strategy)


class AdaptiveMetropolis(SamplerKernel):
    """Move by `kinbayes.samplers.adaptive_metropolis`: a proposal that learns the covariance of the posterior.

    Parameters
    ----------
    model, steps, init_strategy
        As of `Metropolis`.
    step_size, target_acceptance, pool, adapt
        As of `kinbayes.samplers.adaptive_metropolis`; chains that run together may pool what they learn.
    """

    def __init__(
        self,
        model: Callable,
        *,
        steps: int | None = None,
        step_size: float = 0.2,
        target_acceptance: float | None = None,
        pool: bool = True,
        adapt: str = "warmup",
        init_strategy: Callable = init_to_uniform,
    ) -> None:
        settings = (
            ("step_size", step_size),
            ("target_acceptance", target_acceptance),
            ("pool", pool),
            ("adapt", adapt),
        )
        super().__init__(model, adaptive_metropolis, settings, steps=steps, init_strategy=init_strategy)


class Dream(SamplerKernel):
    """Move by `kinbayes.samplers.dream`: jumps along differences between past positions of chains that run together.

    Parameters
    ----------
    model, steps, init_strategy
        As of `Metropolis`.
    snooker_probability, mode_jump_probability, target_acceptance
        As of `kinbayes.samplers.dream`.
    """

    def __init__(
        self,
        model: Callable,
        *,
        steps: int | None = None,
        snooker_probability: float = 0.1,
        mode_jump_probability: float = 0.1,
        target_acceptance: float | None = None,
        init_strategy: Callable = init_to_uniform,
    ) -> None:
        settings = (
            ("snooker_probability", snooker_probability),
            ("mode_jump_probability", mode_jump_probability),
            ("target_acceptance", target_acceptance),
        )
        super().__init__(model, dream, settings, steps=steps, init_strategy=init_strategy)


class ParallelTempering(SamplerKernel):
    """Move by `kinbayes.samplers.parallel_tempering`: copies between the prior and the posterior exchange places.

    Every chain has a ladder of its own, of which `info` tells `beta`, `swap_rate`, `rung_log_likelihood` and
    `round_trips`. The prior has to be proper: it is the ladder's lowest rung.

    Parameters
    ----------
    model, init_strategy
        As of `Metropolis`.
    steps
        Number of steps of a draw; by default 1 for every parameter.
    rungs, inner, inner_settings
        As of `kinbayes.samplers.parallel_tempering`.
    """

    _steps_per_parameter = LADDER_STEPS_PER_PARAMETER

    def __init__(
        self,
        model: Callable,
        *,
        steps: int | None = None,
        rungs: int = 10,
        inner: SamplerFactory = adaptive_metropolis,
        inner_settings: Settings = (),
        init_strategy: Callable = init_to_uniform,
    ) -> None:
        settings = (("rungs", rungs), ("inner", inner), ("inner_settings", inner_settings))
        super().__init__(model, parallel_tempering, settings, steps=steps, init_strategy=init_strategy)
