"""DREAM(ZS): jumps along differences between past positions of all chains."""

from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int, Key

from kinbayes.samplers.base import MetropolisState, Proposed, Sampler, Target, metropolis, optimal_acceptance

# Probabilities with which a jump moves a parameter.
CROSSOVERS = (1 / 3, 2 / 3, 1.0)

# The other values of `Info.move`, after the indices of the crossovers.
MODE_JUMP, SNOOKER = 3, 4

# Most pairs of rows that a jump adds up.
MAX_PAIRS = 3


class Tuning(NamedTuple):
    """Hold the archive of past positions, and what else warmup learns.

    Attributes
    ----------
    archive
        A ring of rows, of which `usable` are drawn from: those before the row that is number `written`.
    log_step_size
        Logarithm of a factor on all differences but those of mode jumps.
    mean, variance
        Moments of all chains, in which late positions weigh most.
    uses, jumps
        How often each crossover was tried, and the squared distance it went, as averages of the same kind.
    iteration
        Number of calls of `tune`.
    """

    archive: Float[Array, "rows dim"]
    written: Int[Array, ""]
    usable: Int[Array, ""]
    log_step_size: Float[Array, ""]
    mean: Float[Array, " dim"]
    variance: Float[Array, " dim"]
    uses: Float[Array, " crossovers"]
    jumps: Float[Array, " crossovers"]
    iteration: Int[Array, ""]


class Info(NamedTuple):
    """Report one step of every chain.

    `move` is an index into `CROSSOVERS`, `MODE_JUMP` or `SNOOKER`. `squared_jump` is the squared distance to
    the proposal, in standard deviations, times the probability to go there.
    """

    acceptance_rate: Float[Array, " chains"]
    step_size: Float[Array, " chains"]
    n_steps: Int[Array, " chains"]
    move: Int[Array, " chains"]
    squared_jump: Float[Array, " chains"]
    proposed: Proposed | None


def dream(
    target: Target,
    *,
    num_warmup: int,
    snooker_probability: float = 0.1,
    mode_jump_probability: float = 0.1,
    target_acceptance: float | None = None,
) -> Sampler:
    """Build a sampler that jumps along differences between rows of an archive of past positions.

    Warmup fills the archive, tunes the probabilities of the crossovers to how far each goes, and a factor on
    the differences to an acceptance rate. Then all is frozen, and every move leaves the target invariant: jumps
    are as likely as their opposites, and a snooker's change of volume enters its acceptance.

    The factor is an addition to the papers: without it the archive shrinks slowly to a posterior much narrower
    than the walls. Mode jumps take one pair, move all parameters, and have neither the factor nor multiplicative
    noise, so that they end in the other mode.

    Parameters
    ----------
    target
        The posterior.
    num_warmup
        Number of steps whose last third the archive spans.
    snooker_probability
        How often a chain moves along the line through a row of the archive, by the projection of a difference.
    mode_jump_probability
        How often another move takes a difference as it is, which leads from mode to mode.
    target_acceptance
        Acceptance rate that warmup aims at, mode jumps aside; by default `optimal_acceptance`.

    Returns
    -------
    The sampler.

    Raises
    ------
    ValueError
        If a setting is no probability.

    References
    ----------
    ter Braak and Vrugt (2008), Differential Evolution Markov Chain with snooker updater and fewer chains,
    doi:10.1007/s11222-008-9104-9.
    Vrugt (2016), Markov chain Monte Carlo simulation using the DREAM software package,
    doi:10.1016/j.envsoft.2015.08.013.
    """
    dim = target.lower.shape[0]
    goal = optimal_acceptance(dim) if target_acceptance is None else target_acceptance
    settings = {
        "snooker_probability": snooker_probability,
        "mode_jump_probability": mode_jump_probability,
        "target_acceptance": goal,
    }
    for name, probability in settings.items():
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"{name} = {probability} is no probability: choose it from 0 to 1")

    def init(key: Key[Array, ""], U: Float[Array, "chains dim"]) -> MetropolisState:
        chains = U.shape[0]
        # The archive is a whole number of blocks, of one row from each chain. Half as many rows to begin with, or
        # several times as many in all, made no difference beyond the noise in 5 to 30 dimensions.
        first_blocks = ceil(10 * dim / chains)
        blocks = max(2 * first_blocks, ceil(min(max(100 * dim, 1000), 10_000) / chains))
        first = _scattered(key, target, U, first_blocks * chains)
        tuning = Tuning(
            archive=jnp.zeros((blocks * chains, dim)).at[: len(first)].set(first),
            written=jnp.array(len(first)),
            usable=jnp.array(len(first)),
            log_step_size=jnp.array(0.0),
            mean=first.mean(axis=0),
            variance=first.var(axis=0),
            uses=jnp.ones(len(CROSSOVERS)),
            jumps=jnp.ones(len(CROSSOVERS)),
            iteration=jnp.array(0),
        )
        return MetropolisState(U, target.log_prior(U), target.log_likelihood(U), tuning)

    def step(key: Key[Array, ""], state: MetropolisState) -> tuple[MetropolisState, Info]:
        move_key, accept_key = jax.random.split(key)
        tuning = state.tuning
        draws = jax.random.uniform(move_key, (len(state.position), 3 + 2 * MAX_PAIRS + 2 * dim))
        move_draws, pairs_draws, factor_draws = draws[:, 0], draws[:, 1], draws[:, 2]
        row_draws, dim_draws = jnp.split(draws[:, 3:], [2 * MAX_PAIRS], axis=1)

        jump = (1.0 - snooker_probability) * (1.0 - mode_jump_probability) * crossover_probabilities(tuning)
        limits = jnp.append(jump.cumsum(), 1.0 - snooker_probability)
        move = (move_draws[:, None] >= limits).sum(axis=1)
        differences, rows = _differences(row_draws, tuning)
        jumped = _jump(state.position, move, pairs_draws, factor_draws, dim_draws, differences, tuning)
        snookered, stretch = _snooker(state.position, factor_draws, differences[:, 0], rows[:, -1], tuning)
        is_snooker = move == SNOOKER
        proposal = jnp.where(is_snooker[:, None], snookered, jumped)
        # On a line through a row, volumes grow with the distance to it, to the power of dim - 1.
        log_correction = jnp.where(is_snooker, xlogy(dim - 1, jnp.abs(stretch)), 0.0)
        moved, probability, proposed = metropolis(accept_key, target, state, proposal, log_correction)

        squared_distance = ((proposal - state.position) ** 2 / tuning.variance).sum(axis=1)
        return moved, Info(
            acceptance_rate=probability,
            step_size=jnp.full_like(probability, jnp.exp(tuning.log_step_size)),
            n_steps=jnp.ones_like(move),
            move=move,
            squared_jump=jnp.where(probability > 0.0, probability * squared_distance, 0.0),
            proposed=proposed,
        )

    def tune(state: MetropolisState, info: Info) -> MetropolisState:
        tuning = state.tuning
        iteration = tuning.iteration + 1
        chains, rows = len(state.position), len(tuning.archive)
        # Every iteration writes where the next block is to be; once in so many, it stays.
        interval = max(1, ceil(chains * num_warmup / (3 * rows)))
        written = tuning.written + chains * (iteration % interval == 0)
        # This weighs an iteration in proportion to its number, so that the way from the start to the bulk fades.
        weight = 2.0 / (iteration + 2.0)
        deviation = state.position - tuning.mean
        used = info.move[:, None] == jnp.arange(len(CROSSOVERS))
        went = used * info.squared_jump[:, None]
        # The power lies between 1/2 and 1, as convergence asks; the factor 3 lets a step that is a thousand
        # times too long become right within some 30 iterations.
        gain = 3.0 * iteration**-0.6
        excess = jnp.where(info.move == MODE_JUMP, 0.0, info.acceptance_rate - goal)
        new_tuning = Tuning(
            archive=jax.lax.dynamic_update_slice(tuning.archive, state.position, (tuning.written % rows, 0)),
            written=written,
            usable=jnp.clip(written // 3, tuning.usable, rows - chains),
            log_step_size=tuning.log_step_size + gain * excess.mean(),
            mean=tuning.mean + weight * deviation.mean(axis=0),
            variance=(1.0 - weight) * (tuning.variance + weight * (deviation**2).mean(axis=0)),
            uses=tuning.uses + weight * (used.mean(axis=0) - tuning.uses),
            jumps=tuning.jumps + weight * (went.mean(axis=0) - tuning.jumps),
            iteration=iteration,
        )
        return state._replace(tuning=new_tuning)

    return Sampler(init, step, tune)


def crossover_probabilities(tuning: Tuning) -> Float[Array, " crossovers"]:
    """Share the jumps among the crossovers by the squared distance that one goes.

    Parameters
    ----------
    tuning
        The tuning.

    Returns
    -------
    The probabilities, (crossovers,), of which none is below 1/30: one that does badly is still tried.
    """
    distance = tuning.jumps / tuning.uses
    return 0.9 * distance / distance.sum() + 0.1 / len(CROSSOVERS)


def _scattered(
    key: Key[Array, ""], target: Target, U: Float[Array, "chains dim"], number: int
) -> Float[Array, "rows dim"]:
    """Draw points between the walls; where one is missing, as far from the chains as they lie apart, or 1."""
    reach = jnp.maximum(jnp.ptp(U, axis=0), 1.0)
    lower = jnp.where(jnp.isfinite(target.lower), target.lower, U.min(axis=0) - reach)
    upper = jnp.where(jnp.isfinite(target.upper), target.upper, U.max(axis=0) + reach)
    return lower + (upper - lower) * jax.random.uniform(key, (number, U.shape[1]))


def _differences(
    draws: Float[Array, "chains both"], tuning: Tuning
) -> tuple[Float[Array, "chains pairs dim"], Float[Array, "chains pairs dim"]]:
    """Subtract rows of the archive, two different ones for each pair; return the first of each pair too."""
    one = jnp.floor(draws[:, :MAX_PAIRS] * tuning.usable).astype(int)
    other = jnp.floor(draws[:, MAX_PAIRS:] * (tuning.usable - 1)).astype(int)
    age = jnp.concatenate([one, other + (other >= one)], axis=1)
    rows = tuning.archive[(tuning.written - 1 - age) % len(tuning.archive)]
    return rows[:, :MAX_PAIRS] - rows[:, MAX_PAIRS:], rows[:, :MAX_PAIRS]


def _jump(
    position: Float[Array, "chains dim"],
    move: Int[Array, " chains"],
    pairs_draws: Float[Array, " chains"],
    factor_draws: Float[Array, " chains"],
    dim_draws: Float[Array, "chains both"],
    differences: Float[Array, "chains pairs dim"],
    tuning: Tuning,
) -> Float[Array, "chains dim"]:
    """Add differences to some of the parameters: one to three with a factor, or one as it is to all of them."""
    is_mode_jump = move == MODE_JUMP
    pairs = jnp.where(is_mode_jump, 1, 1 + jnp.floor(MAX_PAIRS * pairs_draws).astype(int))
    is_added = jnp.arange(MAX_PAIRS) < pairs[:, None]
    total = jnp.where(is_added[:, :, None], differences, 0.0).sum(axis=1)

    subset_draws, noise_draws = jnp.split(dim_draws, 2, axis=1)
    crossover = jnp.array([*CROSSOVERS, 1.0, 1.0])[move]
    # The lowest draw always counts: an empty subset would be an evaluation of where the chain is.
    is_moved = subset_draws <= jnp.maximum(crossover, subset_draws.min(axis=1))[:, None]
    # gamma = 2.38 / sqrt(2 delta d'), times 1 + e, e in (-0.1, 0.1): the same e for all parameters, or a jump along
    # a ridge would leave it.
    gamma = (0.9 + 0.2 * factor_draws) * 2.38 / jnp.sqrt(2 * pairs * is_moved.sum(axis=1))
    gamma = jnp.where(is_mode_jump, 1.0, jnp.exp(tuning.log_step_size) * gamma)
    # Differences between finitely many rows reach some points only; this reaches the rest.
    noise = 1e-4 * jnp.sqrt(tuning.variance) * (2.0 * noise_draws - 1.0)
    return position + jnp.where(is_moved, gamma[:, None] * total + noise, 0.0)


def _snooker(
    position: Float[Array, "chains dim"],
    factor_draws: Float[Array, " chains"],
    difference: Float[Array, "chains dim"],
    row: Float[Array, "chains dim"],
    tuning: Tuning,
) -> tuple[Float[Array, "chains dim"], Float[Array, " chains"]]:
    """Move along the line through a row; return by what factor that stretches the way from the row."""
    line = position - row
    # gamma in (1.2, 2.2), times the projection of the difference on the line. For a chain that is where the row
    # is, there is no line: the proposal is NaN, which no wall lets through.
    gamma = jnp.exp(tuning.log_step_size) * (1.2 + factor_draws)
    stretch = 1.0 + gamma * (line * difference).sum(axis=1) / (line**2).sum(axis=1)
    return row + stretch[:, None] * line, stretch
