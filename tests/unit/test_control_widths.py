"""Widths of control arms that are derived from the potential of a study's HamJEPA."""

from pathlib import Path
from typing import Any

import pytest

from hamjepa_audit.models.predictors import build_predictor
from hamjepa_audit.params import load_study
from hamjepa_audit.params.arms import ArmParams, PhaseSpaceObjectiveParams
from hamjepa_audit.params.studies import StudyParams
from hamjepa_audit.params.widths import PARAMETER_MATCHED, with_width
from tests.tiny import edit
from tests.unit.features import seeded
from tests.unit.test_params import folder, message  # noqa: F401


def of_arm(arm: ArmParams) -> Any:
    """The parameters of an arm's predictor."""
    assert isinstance(arm.objective, PhaseSpaceObjectiveParams)
    return arm.objective.predictor


def parameters(predictor: Any, dimension: int) -> int:
    """Number of trainable parameters of a predictor for states of this dimension."""
    return sum(x.numel() for x in build_predictor(predictor, dimension, seeded()).parameters())


def matches(study: StudyParams) -> tuple[float, int]:
    """Relative difference in parameters of the matched MLP from the potential, and its width.

    Asserts that neighbouring widths are not closer, and that the other networks are as wide as the
    potential.
    """
    dimension = study.encoder.state_dimension(study.views.size)
    predictors: dict[str, Any] = {
        arm.name: arm.objective.predictor
        for arm in study.arms
        if arm.objective.kind == "phase_space"
    }

    potential = predictors["hamjepa"].potential
    for arm in ("mlp", "mlp_dt_scaled"):
        assert predictors[arm].hidden_width == potential.hidden_width
    assert predictors["volume_preserving"].force.hidden_width == potential.hidden_width
    target, matched = (
        parameters(predictors["hamjepa"], dimension),
        predictors["mlp_parameter_matched"],
    )
    width = matched.hidden_width
    missed = {
        other: abs(
            parameters(matched.model_copy(update={"hidden_width": other}), dimension) - target
        )
        for other in (width - 1, width, width + 1)
    }
    assert min(missed, key=missed.__getitem__) == width
    return missed[width] / target, width


@pytest.mark.parametrize(
    ("name", "width"),
    [("cifar100_controls", 78), ("digits_controls", 19), ("tinyimagenet100_controls", 78)],
)
def test_the_matched_mlp_has_as_many_parameters_as_the_potential(
    params_folder: Path, name: str, width: int
) -> None:
    missed, found = matches(load_study(params_folder, name))
    assert found == width and missed < 0.02


SMALLER = "extends: imagenet_smoke\nselection: controls\ntitle: Small\nepochs: [8]\n"
LARGER = """
extends: cifar100
selection: controls
title: Large
data: {image_size: 64}
views: {size: 64}
epochs: [30]
"""


@pytest.mark.parametrize(("text", "tolerance"), [(SMALLER, 0.025), (LARGER, 0.02)])
def test_controls_fit_a_study_of_any_width(folder: Path, text: str, tolerance: float) -> None:  # noqa: F811
    """With few coordinates, one more hidden unit is several percent of the parameters."""
    (folder / "studies" / "others_controls.yaml").write_text(text)
    missed, width = matches(load_study(folder, "others_controls"))
    assert missed < tolerance and width not in (19, 78)


def test_widths_follow_what_a_study_says_of_hamjepa_alone(folder: Path) -> None:  # noqa: F811
    path = "arm_overrides.hamjepa.objective.predictor.potential.hidden_width"
    edit(folder / "studies" / "digits_controls.yaml", path, 100)
    missed, width = matches(load_study(folder, "digits_controls"))
    assert missed < 0.02 and width > 19
    # This holds even if the study doesn't train HamJEPA, but the study's own number has priority.
    edit(folder / "studies" / "digits_controls.yaml", "arms", ["sigreg", "mlp_parameter_matched"])
    edit(folder / "studies" / "digits_controls.yaml", "figure_arms", None)
    alone: Any = load_study(folder, "digits_controls").arms[1].objective
    assert alone.predictor.hidden_width == width
    path = "arm_overrides.mlp_parameter_matched.objective.predictor.hidden_width"
    edit(folder / "studies" / "digits_controls.yaml", path, 7)
    own: Any = load_study(folder, "digits_controls").arms[1].objective
    assert own.predictor.hidden_width == 7


def test_a_width_that_follows_nothing_known_is_refused(folder: Path) -> None:  # noqa: F811
    edit(folder / "arms" / "mlp.yaml", "objective.predictor.hidden_width", "width_match")
    assert message(folder, "digits_controls") == (
        "study 'digits_controls': arm 'mlp': hidden_width is 'width_match': give it a number, or "
        "did you mean 'width_matched'?"
    )
    edit(folder / "arms" / "mlp.yaml", "objective.predictor.hidden_width", "width_matched")
    edit(folder / "arms" / "mlp.yaml", "objective.predictor.hidden_layers", 0)
    assert "hidden_layers is 0" in message(folder, "digits_controls")


@pytest.mark.parametrize("dimension", [4, 6, 12])
@pytest.mark.parametrize("name", ["mlp", "volume_preserving"])
def test_no_other_width_of_a_small_network_is_nearer_to_the_potentials_parameters(
    params_folder: Path, dimension: int, name: str
) -> None:
    arms = {arm.name: arm for arm in load_study(params_folder, "digits_controls").arms}

    def with_part(arm: ArmParams, part: str, width: int) -> Any:
        predictor = of_arm(arm)
        if not hasattr(predictor, part):
            return predictor.model_copy(update={"hidden_width": width})
        changed = getattr(predictor, part).model_copy(update={"hidden_width": width})
        return predictor.model_copy(update={part: changed})

    for width in range(3, 24):
        potential = with_part(arms["hamjepa"], "potential", width)
        objective = arms["hamjepa"].objective.model_copy(update={"predictor": potential})
        followed = arms["hamjepa"].model_copy(update={"objective": objective})
        matched = with_width(arms[name], PARAMETER_MATCHED, followed, dimension)
        found = parameters(of_arm(matched), dimension)
        aim = parameters(potential, dimension)
        missed = [
            abs(parameters(with_part(arms[name], "force", other), dimension) - aim)
            for other in range(1, 30)
        ]
        assert abs(found - aim) == min(missed), width
