import pytest

import kinbayes as kb
from kinbayes.run.choice import automatic, chosen
from kinbayes.run.settings import checked_settings
from kinbayes.samplers import SAMPLERS
from kinbayes.samplers.adaptive_metropolis import adaptive_metropolis


@pytest.fixture(scope="module")
def problem():
    return kb.read_petab(kb.example("conversion_reaction"))


@pytest.mark.parametrize(
    ("sampler", "settings", "steps"),
    [
        ("nuts", {}, 1),
        ("nuts", {"backend": "numpyro"}, 1),
        ("random_walk", {}, 10),
        ("adaptive_metropolis", {}, 10),
        ("parallel_tempering", {}, 2),
        ("parallel_tempering", {"inner": "nuts"}, 1),
    ],
)
def test_small_steps_are_many_an_iteration(problem, sampler, settings, steps):
    assert chosen(problem, sampler, settings, None).thin == steps


def test_the_record_has_names_and_every_setting_of_the_inner_sampler(problem):
    given = {"rungs": 4, "inner": "random_walk", "inner_settings": {"step_size": 0.5}}
    found = chosen(problem, "parallel_tempering", given, 3)
    inner = {"step_size": 0.5, "target_acceptance": None}
    assert found.settings == {"rungs": 4, "inner": "random_walk", "inner_settings": inner}
    assert found.thin == 3


@pytest.mark.parametrize(
    ("sampler", "settings", "thin", "message"),
    [
        ("gibbs", {}, None, "unknown sampler 'gibbs'; choose from"),
        ("nuts", {"backend": "stan"}, None, "unknown backend 'stan'"),
        ("nuts", {}, 2, "nutpie keeps every draw"),
        ("random_walk", {}, 0, "thin is 0"),
        ("random_walk", {"steps": 1}, None, r"unknown settings \['steps'\] of 'random_walk'; choose from"),
        ("parallel_tempering", {"inner": "parallel_tempering"}, None, "unknown inner sampler 'parallel_tempering'"),
        ("parallel_tempering", {"inner_settings": {"rungs": 3}}, None, "unknown settings .* of 'adaptive_metropolis'"),
        ("parallel_tempering", {"inner_settings": 3}, None, "give a mapping"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(problem, sampler, settings, thin, message):
    with pytest.raises(ValueError, match=message):
        chosen(problem, sampler, settings, thin)


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [("step_size", 1, "big"), ("target_acceptance", None, "high"), ("pool", False, 1), ("adapt", "warmup", 3)],
)
def test_a_setting_has_the_type_of_the_signature(setting, good, bad):
    pairs = checked_settings(
        "adaptive_metropolis", adaptive_metropolis, {setting: good}, fixed=("target", "num_warmup")
    )
    assert dict(pairs)[setting] == good
    with pytest.raises(ValueError, match=f"setting '{setting}' of 'adaptive_metropolis' is {bad!r}; it must be"):
        checked_settings("adaptive_metropolis", adaptive_metropolis, {setting: bad}, fixed=("target", "num_warmup"))


@pytest.mark.parametrize(("dim", "optima", "name"), [(25, 0, "dream"), (26, 1, "nuts"), (3, 2, "parallel_tempering")])
def test_auto_follows_its_rule_and_says_why(dim, optima, name):
    found, why = automatic(dim, optima)
    assert found == name
    assert str(optima if optima > 1 else dim) in why


def test_every_sampler_can_be_chosen(problem):
    for name in SAMPLERS.keys() - {"amortized"}:  # which needs a proposal
        assert chosen(problem, name, {}, None).name == name
