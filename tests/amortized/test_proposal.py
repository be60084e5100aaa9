"""Learned proposals: exact on the extended space, densities that integrate to one, and files that can be trusted."""

import hashlib
import json
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.scipy.stats import norm
from jaxtyping import Array

import kinbayes as kb
from kinbayes.amortized import scaling
from kinbayes.amortized.defensive import Defensive
from kinbayes.amortized.fit import empty_history
from kinbayes.amortized.networks.base import Network
from kinbayes.amortized.networks.flow import flow
from kinbayes.amortized.proposal import LearnedProposal, ProposalNotExactError, learned_proposal
from kinbayes.amortized.proposal_file import ProposalFileError, load_proposal
from kinbayes.amortized.scaling import BoxScaling
from kinbayes.model.expressions import const
from kinbayes.model.formula import parse
from kinbayes.model.model import Model

KEY = jax.random.key(5)
NUM = 40_000
SIZES = {"num_layers": 2, "hidden": 8, "depth": 1, "num_knots": 4}
CONDITION = scaling.fit_condition(np.array([1.0, 3.0, 8.0]))
LOWER, UPPER = np.array([-2.0, 1.0]), np.array([1.0, 3.0])
UNIFORM = Defensive(np.array([True, True]), LOWER, UPPER, np.zeros(2), np.ones(2))


class Linear(Network):
    """y = center + slope z + noise, with one normal latent and an r that is a poor guess; points may leave the box."""

    center: Array
    slope: Array
    noise: Array

    @property
    def has_density(self):
        return True

    def propose(self, key, c, num_latents):
        first, own, others = jax.random.split(key, 3)
        z = jax.random.normal(first, (len(c), 1))
        y = self._center(c) + z * self.slope + self.noise * jax.random.normal(own, (len(c), 2))
        z = jnp.concatenate([z, self._drawn(others, y, num_latents - 1)], axis=1)
        return y, self._estimate(y, c, z)

    def log_density(self, key, y, c, num_latents):
        return self._estimate(y, c, self._drawn(key, y, num_latents))

    def _center(self, c):
        return self.center + c[:, None] * jnp.array([-0.2, 0.1])

    def _guess(self, y):
        return 3 * (y[:, :1] - self.center[0]), 0.8

    def _drawn(self, key, y, num_latents):
        mean, sd = self._guess(y)
        return mean + sd * jax.random.normal(key, (len(y), num_latents))

    def _estimate(self, y, c, z):
        means = self._center(c)[:, None] + z[..., None] * self.slope
        points = norm.logpdf(y[:, None], means, self.noise).sum(axis=2)
        weights = norm.logpdf(z) + points - norm.logpdf(z, *self._guess(y))
        return jax.scipy.special.logsumexp(weights, axis=1) - jnp.log(z.shape[1])


LINEAR = Linear(jnp.array([0.5, 0.7]), jnp.array([0.15, -0.1]), jnp.array(0.1))


def proposal_of(network, component=UNIFORM, box=(LOWER, UPPER), **settings):
    names = ("a", "b")[: len(box[0])]
    parts = {"conditions": (0.0,), "num_latents": 2, "epsilon": 0.1, **settings}
    return LearnedProposal(
        network, "linear", {}, BoxScaling(*box), CONDITION, np.array(parts["conditions"]), parts["num_latents"],
        parts["epsilon"], component, names, ("lin",) * len(names), "abc", {}, empty_history(dim=len(names)),
    )  # fmt: skip


@jax.jit
def drawn(proposal, key):
    return proposal.draw(key, NUM)


@jax.jit
def log_densities(proposal, key, U):
    return proposal.log_density(key, U)


def z_score(values, expected):
    return float((values.mean() - expected) / (values.std() / np.sqrt(len(values))))


@pytest.mark.parametrize("conditions", [(0.0,), (0.0, 0.5, 1.0)])
def test_weights_are_exact_with_the_latents_of_the_draw_and_biased_with_others(conditions):
    proposal = proposal_of(LINEAR, conditions=conditions).for_sampler()
    U, log_q = (np.asarray(part) for part in drawn(proposal, KEY))
    h = 1 + U[:, 0] ** 2 * U[:, 1]
    integral = 6 + 3.0 * 4.0  # ∫ a² da = 3 and ∫ b db = 4
    assert abs(z_score(np.exp(-log_q) * h, integral)) < 5
    # The control: the estimate made anew for every draw.
    again = np.where(log_q == np.inf, np.inf, log_densities(proposal, jax.random.key(1), jnp.asarray(U)))
    assert abs(z_score(np.exp(-again) * h, integral)) > 5


def test_points_of_the_target_see_the_mass_that_stays_in_the_box():
    near_the_wall = eqx.tree_at(lambda tree: tree.center, LINEAR, jnp.array([0.9, 0.7]))
    proposal = proposal_of(near_the_wall, epsilon=0.3).for_sampler()
    share_lost = (np.asarray(drawn(proposal, KEY)[1]) == np.inf).mean()
    assert 0.1 < share_lost < 0.3
    U = np.random.default_rng(0).uniform(LOWER, UPPER, (NUM, 2))
    density = np.exp(log_densities(proposal, KEY, jnp.asarray(U)))
    error = np.sqrt(share_lost / NUM + (density.std() * 6) ** 2 / NUM)
    assert abs(6 * density.mean() - (1 - share_lost)) < 5 * error
    assert abs(6 * density.mean() - 1) > 5 * density.std() * 6 / np.sqrt(NUM)


def test_outside_the_box_only_the_defensive_part_is_left():
    component = Defensive(np.array([False, False]), np.full(2, -np.inf), np.full(2, np.inf), np.zeros(2), np.ones(2))
    proposal = proposal_of(LINEAR, component, epsilon=0.2).for_sampler()
    U = np.random.default_rng(0).normal(0, 30, (NUM, 2))
    found = np.asarray(log_densities(proposal, KEY, jnp.asarray(U)))
    is_outside = ((U < LOWER) | (U > UPPER)).any(axis=1)
    students = np.log(3 / 8) - 2.5 * np.log1p(U**2 / 4)
    np.testing.assert_allclose(found[is_outside], np.log(0.2) + students.sum(axis=1)[is_outside], rtol=1e-10)
    assert (found[~is_outside] > np.log(0.2) + students.sum(axis=1)[~is_outside]).all()


def test_flow_scaling_and_defensive_part_integrate_to_one_together():
    network = jax.tree.map(lambda leaf: 2 * leaf if leaf.dtype == float else leaf, flow(KEY, 1, **SIZES))
    component = Defensive(np.array([False]), np.array([-np.inf]), np.array([np.inf]), np.array([0.5]), np.array([2.0]))
    proposal = proposal_of(network, component, (np.array([-6.0]), np.array([3.0]))).for_sampler()
    inside = np.linspace(-6.0, 3.0, NUM)
    beyond = np.geomspace(1e-9, 1e9, NUM)  # from the walls
    total = 0.0
    for u, at in ((inside, inside), (3.0 + beyond, beyond), (-6.0 - beyond, beyond)):
        density = np.exp(log_densities(proposal, KEY, jnp.asarray(u[:, None])))
        total += np.trapezoid(density, at)
    assert total == pytest.approx(1.0, abs=2e-4)


def test_other_weights_and_conditions_compile_nothing():
    drawn(proposal_of(LINEAR).for_sampler(), KEY)
    before = drawn._cache_size()
    other = jax.tree.map(lambda leaf: 0.9 * leaf, LINEAR)
    drawn(proposal_of(other, conditions=(0.3,), epsilon=0.06).for_sampler(), KEY)
    assert drawn._cache_size() == before


def test_a_network_without_density_only_gives_starts():
    class Mute(Network):
        center: Array

        def generate(self, key, c):
            return self.center + c[:, None] * jnp.array([0.0, 0.6]) + 0.0 * jax.random.normal(key, (len(c), 2))

    proposal = proposal_of(Mute(jnp.array([0.5, 0.5])), conditions=(0.5,))
    with pytest.raises(ProposalNotExactError, match="another head"):
        proposal.for_sampler()
    found = proposal.generate(0, 4)
    np.testing.assert_allclose(found.U, np.tile([-0.5, 2.6], (4, 1)))
    assert found.num_outside == {}
    in_turn = proposal_of(Mute(jnp.array([0.5, 0.5])), conditions=(0.5, 0.0)).generate(0, 4)
    np.testing.assert_allclose(in_turn.U, np.tile([[-0.5, 2.6], [-0.5, 2.0]], (2, 1)))
    beyond = proposal.generate(0, 3, condition=1.2)
    assert beyond.num_outside == {"b": 3}
    assert beyond.is_outside.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": 1.0}, "epsilon is 1.0"),
        ({"num_latents": 0}, "num_latents is 0"),
        ({"conditions": (0.1, np.inf)}, r"conditions are \[0.1 inf\]"),
        ({"conditions": ()}, "1 to 64 finite numbers"),
        ({"box": (UPPER, LOWER)}, "lower walls below"),
        ({"box": (LOWER[:1], UPPER[:1])}, r"there are 1 parameters, and parts for \[2\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        proposal_of(LINEAR, **settings)


# ---- files


def problem(sd=1.0):
    model = Model("decay", {"A": parse("-k * A")}, {"A": parse("A_0"), "k": const(0.3), "A_0": const(2.0)})
    data = pd.DataFrame({"observableId": "y", "time": [0.0, 1.0], "measurement": [2.0, 1.1]})
    parameters = [kb.Parameter("k", kb.LogUniform(1e-3, 10.0)), kb.Parameter("A_0", kb.Normal(2.0, sd))]
    return kb.Problem(model, parameters, [kb.Observable("y", "A", kb.noise.normal(0.1))], data)


@pytest.fixture(scope="module")
def learned():
    box = BoxScaling(np.array([-3.0, -1.0]), np.array([1.0, 5.0]))
    return learned_proposal(
        problem(), flow(KEY, 2, **SIZES), network_name="flow", network_settings=SIZES, box=box,
        condition_scaling=CONDITION, training={"epochs": 3, "best_loss": -1.25, "heads": (1, 2)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(learned, tmp_path_factory):
    path = tmp_path_factory.mktemp("proposal") / "decay.npz"
    learned.save(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["decay.npz"]
    return path


def test_a_file_gives_the_same_proposal(learned, saved):
    again = load_proposal(saved)
    assert again.hash == learned.hash
    assert jax.tree.structure(again.network) == jax.tree.structure(learned.network)
    for name in ("network_name", "network_settings", "conditions", "num_latents", "epsilon", "parameter_names",
                 "parameter_scales", "problem_hash", "training"):  # fmt: skip
        assert getattr(again, name) == getattr(learned, name)
    U = jnp.asarray(problem().draw_prior(np.random.default_rng(0), 64))
    one, other = (np.asarray(log_densities(p.for_sampler(), KEY, U)) for p in (learned, again))
    np.testing.assert_array_equal(one, other)


def test_by_default_it_asks_for_the_posterior(learned):
    assert learned.conditions == [scaling.posterior_condition(CONDITION, 2)]


def test_the_hash_is_of_all_that_is_in_the_file(learned, saved):
    with np.load(saved, allow_pickle=False) as file:
        parts = dict(file)
    header = json.loads(parts.pop("header").tobytes())
    assert header.pop("hash") == learned.hash
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(parts):
        digest.update(f"{name} {parts[name].dtype.str} {parts[name].shape}".encode() + parts[name].tobytes())
    assert digest.hexdigest() == learned.hash


def test_a_network_of_other_settings_is_refused(learned):
    with pytest.raises(ValueError, match="is not what 'flow' builds"):
        learned_proposal(
            problem(), learned.network, network_name="flow", network_settings=SIZES | {"hidden": 9}, box=learned.box,
            condition_scaling=CONDITION,
        )  # fmt: skip


def changed(saved, path, change):
    """Write a file with other parts."""
    with np.load(saved, allow_pickle=False) as file:
        parts = dict(file)
    header = json.loads(parts["header"].tobytes())
    change(parts, header)
    if "header" in parts:
        parts["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **parts)
    return path


WEIGHTS = ".network.layers.conditioner.layers[0].bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts, header: parts[WEIGHTS].__setitem__((0, 0), 0.5), "was saved as"),
        (lambda parts, header: header.update(num_latents=17), "was saved as"),
        (lambda parts, header: header.update(problem_hash="other"), "was saved as"),
        (lambda parts, header: parts.update({WEIGHTS: np.zeros((2, 9))}), "arrays are not as they should be"),
        (lambda parts, header: parts.update({WEIGHTS: parts[WEIGHTS].astype(np.float32)}), "arrays are not as they"),
        (lambda parts, header: parts.update(more=np.zeros(3)), "the first of them more"),
        (lambda parts, header: parts.pop(".epsilon"), "the first of them .epsilon"),
        (lambda parts, header: parts.pop("header"), "no header"),
        (lambda parts, header: header.update(format="another"), "format is not"),
        (lambda parts, header: header.update(num_latents=True), r"no proper \['num_latents'\]"),
        (lambda parts, header: header.update(parameter_names=["k", 3]), "not 1 to"),
        (lambda parts, header: header.update(network_name="os.system"), "unknown network"),
        (lambda parts, header: header["network_settings"].update(num_layers=10**9), "more than 256 is not read"),
        (lambda parts, header: header["network_settings"].update(hidden=10**9), "more than 65536 is not read"),
        (lambda parts, header: header["network_settings"].update(hidden=60_000), "arrays are not as they should be"),
        (lambda parts, header: header["network_settings"].update(hidden="wide"), "can be read"),
        (lambda parts, header: header["network_settings"].update(other=1), r"settings \['other'\]"),
        (lambda parts, header: parts.update({".condition_scaling.excess": np.zeros(5000)}), "grid of its condition"),
        (lambda parts, header: parts.update({".conditions": np.zeros(65)}), "its conditions have the shape"),
    ],
)
def test_a_file_that_was_changed_is_refused(saved, tmp_path, change, message):
    with pytest.raises(ProposalFileError, match=message):
        load_proposal(changed(saved, tmp_path / "changed.npz", change))


def test_a_file_of_another_kind_is_refused(saved, tmp_path):
    path = tmp_path / "other.npz"
    with pytest.raises(FileNotFoundError, match="no such proposal"):
        load_proposal(path)
    path.write_text("not a proposal")
    with pytest.raises(ProposalFileError, match="holds no learned proposal"):
        load_proposal(path)
    path.write_bytes(saved.read_bytes()[:-700])
    with pytest.raises(ProposalFileError, match="holds no learned proposal"):
        load_proposal(path)
    np.savez(path, header=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ProposalFileError, match="no array of numbers"):
        load_proposal(path)


def test_an_array_that_says_it_is_huge_is_not_allocated(saved, tmp_path):
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            is_changed = member == f"{WEIGHTS}.npy"
            target.writestr(member, _array_header((10**12,)) if is_changed else source.read(member))
    with pytest.raises(ProposalFileError, match="another size than it says"):
        load_proposal(path)


def _array_header(shape):
    """The beginning of an array's file, and nothing behind it."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
