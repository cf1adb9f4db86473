"""Hidden widths that follow the potential of a study's HamJEPA arm, so that controls match it."""

import bisect
import copy
import itertools
from collections.abc import Mapping
from typing import Any

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.params.arms import (
    AdditiveCouplingParams,
    ArmParams,
    ForceParams,
    PhaseSpaceObjectiveParams,
    PotentialParams,
    ResidualMLPParams,
)

FOLLOWED = "hamjepa"
"""The arm whose potential is followed."""

WIDTH_MATCHED = "width_matched"
PARAMETER_MATCHED = "parameter_matched"
WORDS = (WIDTH_MATCHED, PARAMETER_MATCHED)
"""Words that a file may give for a hidden width instead of a number: the potential's width; the
width that brings a network's number of parameters nearest to the potential's."""


def without_word(arm: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str | None]:
    """A copy of an arm's tree with 1 for a hidden width that is given by a word, and the word.

    Raises:
        UserError: the word is not one of WORDS.
    """
    copied = copy.deepcopy(dict(arm))
    node: Any = copied.get("objective")
    for key in ("predictor", "force"):
        node = node.get(key) if isinstance(node, dict) else None
        width = node.get("hidden_width") if isinstance(node, dict) else None
        if isinstance(width, str):
            if width not in WORDS:
                raise UserError(
                    f"{where}: arm '{arm['name']}': hidden_width is '{width}': give it a number, "
                    f"or {nearest(width, WORDS)}"
                )
            node["hidden_width"] = 1
            return copied, width
    return copied, None


def with_width(arm: ArmParams, word: str, followed: ArmParams, state_dimension: int) -> ArmParams:
    """An arm with the hidden width that a word of WORDS stands for.

    Args:
        arm: has a placeholder as its hidden width.
        word: one of WORDS.
        followed: the arm FOLLOWED of the same study.
        state_dimension: dimension 2d of the study's states.

    Raises:
        UserError: an arm has no network or potential to which the word could apply.
    """
    potential, half = _potential(followed), state_dimension // 2
    objective = arm.objective
    predictor = objective.predictor if isinstance(objective, PhaseSpaceObjectiveParams) else None
    network: ResidualMLPParams | ForceParams
    match predictor:
        case ResidualMLPParams():
            network, ends = predictor, (state_dimension + 1, state_dimension)
        case AdditiveCouplingParams():
            network, ends = predictor.force, (half, half)
        case _:
            raise UserError(
                f"arm '{arm.name}': hidden_width '{word}' is only for an MLP or a coupling; give a "
                f"number"
            )
    width = potential.hidden_width
    if word == PARAMETER_MATCHED:
        target = parameters((half, 1), potential.hidden_width, potential.hidden_layers)
        width = nearest_width(target, ends, network.hidden_layers)
    changed: dict[str, Any] = {"hidden_width": width}
    if isinstance(predictor, AdditiveCouplingParams):
        changed = {"force": network.model_copy(update=changed)}
    replaced = {"predictor": predictor.model_copy(update=changed)}
    return arm.model_copy(update={"objective": objective.model_copy(update=replaced)})


def parameters(ends: tuple[int, int], width: int, layers: int) -> int:
    """Number of weights and biases of an MLP with `layers` hidden layers between its ends."""
    sizes = (ends[0], *[width] * layers, ends[1])
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


def nearest_width(target: int, ends: tuple[int, int], layers: int) -> int:
    """The hidden width, at least 1, that brings an MLP nearest to `target` parameters."""

    def count(width: int) -> int:
        return parameters(ends, width, layers)

    reaching = 1 + bisect.bisect_left(range(1, target), target, key=count)
    return min(max(1, reaching - 1), reaching, key=lambda width: abs(count(width) - target))


def _potential(followed: ArmParams) -> PotentialParams:
    predictor = getattr(followed.objective, "predictor", None)
    potential = getattr(predictor, "potential", None)
    if not isinstance(potential, PotentialParams):
        raise UserError(
            f"arm '{followed.name}' has no potential, so other arms can't take its width; give "
            f"each a number as hidden_width"
        )
    return potential
