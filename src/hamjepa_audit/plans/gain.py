"""Arms that serve as controls of other arms, for the tables and figures of the gain."""

from typing import Any, NamedTuple

from hamjepa_audit.params.studies import StudyParams

FEWEST_VALUES = 3
"""A curve over a setting has at least this many points."""


class Factor(NamedTuple):
    """A setting that some arms vary, with all else as in a reference arm."""

    figure: str
    symbol: str
    side: str
    """The arm of `GainParams` that is the reference."""
    path: tuple[str, ...]
    """Keys of the setting in an arm's parameters."""


FACTORS = (
    Factor("leapfrog_sensitivity", "K", "method", ("objective", "predictor", "steps")),
    Factor("leapfrog_sensitivity", "dt", "method", ("objective", "predictor", "step_size")),
    Factor("sigreg_sensitivity", "λ", "baseline", ("objective", "weight")),
)


def has_gain(study: StudyParams) -> bool:
    """Whether a study has the two arms that define the gain, and at least one other."""
    arms = set(study.arm_names)
    return {study.statistics.gain.baseline, study.statistics.gain.method} < arms


def values_of(study: StudyParams, factor: Factor) -> dict[str, float]:
    """The setting's value by arm, for the arms that differ from the reference only in it.

    Sorted by value, reference included; empty if the study lacks the reference or has too few
    values.
    """
    reference = getattr(study.statistics.gain, factor.side)
    arms = {arm.name: arm.model_dump(exclude={"name", "title"}) for arm in study.arms}
    if reference not in arms:
        return {}
    settings = {name: _taken_out(tree, factor.path) for name, tree in arms.items()}
    values = {name: value for name, value in settings.items() if arms[name] == arms[reference]}
    if len(values) < FEWEST_VALUES:
        return {}
    return dict(sorted(values.items(), key=lambda item: item[1]))


def gain_figures(study: StudyParams) -> list[str]:
    """The figures of the gain that a study has the arms for."""
    if not has_gain(study):
        return []
    drawn = [factor.figure for factor in FACTORS if values_of(study, factor)]
    return ["what_carries_the_gain", *dict.fromkeys(drawn)]


def _taken_out(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    """Removes the value at a path from the tree and returns it; None if it isn't there."""
    *parents, last = path
    node: Any = tree
    for key in parents:
        node = node.get(key)
        if not isinstance(node, dict):
            return None
    return node.pop(last, None)
