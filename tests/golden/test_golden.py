"""Compares every component with independently computed numbers.

`pytest tests/golden --cases DIR` runs the cases in another folder, in the same format.
"""

import pytest

from tests.golden import evaluation_runners, objective_runners
from tests.golden.harness import Case, load_cases

RUNNERS = {**objective_runners.RUNNERS, **evaluation_runners.RUNNERS}

LEFT_OUT = {
    "an activation other than GELU: every arm's potential uses GELU": lambda s: (
        s.get("activation", "gelu") != "gelu"
    ),
    "a clipped statistic: no arm clips the statistic of SIGReg": lambda s: (
        s.get("clip_value") is not None
    ),
    "uniform weights of the Epps-Pulley statistic: every arm weights by the Gaussian": lambda s: (
        s.get("weight_type", "gaussian") != "gaussian"
    ),
    "an energy term in the prediction loss: its weight is 0 in every arm": lambda s: (
        s.get("energy_weight", 0.0) != 0.0
    ),
    "targets that are not detached: every arm detaches them": lambda s: (
        not s.get("detach_target", True)
    ),
    "prediction in one direction only: every arm predicts in both": lambda s: (
        not s.get("bidirectional", True) and not s["symmetrised_by_two_forward_calls"]
    ),
    "tokens from another stage than the third: every encoder uses stage 3": lambda s: (
        s.get("token_layer", "layer3") != "layer3"
    ),
    "a warm-up as long as the run or longer: refused as a parameter error": lambda s: (
        s.get("warmup_epochs", 0) >= s.get("epochs", 1)
    ),
}
"""Conditions on the options of a case that no arm uses, by the reason for skipping the case."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = load_cases(metafunc.config.getoption("--cases"))
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.mark.golden
def test_component_agrees_with_the_golden_case(case: Case) -> None:
    for reason, applies in LEFT_OUT.items():
        if applies(case.scalars):
            pytest.skip(reason)
    assert case.component in RUNNERS, f"no runner for component {case.component}"
    RUNNERS[case.component](case)
    assert case.checked == case.expected_names(), "arrays of the case that were not compared"
