"""Loads typed parameters from YAML files: reads, inherits, merges, validates, and reports errors.

A study file is merged over `protocol.yaml` (or over the study it `extends`); an arm file over the
arm it `extends`. A study may name a `selection` (a file in params/selections): settings, such as
the list of arms, that several studies share, and that are merged before the study's own. It may
override settings of an arm under `arm_overrides`; an arm inherits the overrides of the arm that it
extends, so that the ablations stay equal to HamJEPA in everything else. A hidden width may be a
keyword that derives it from HamJEPA's (see widths).
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from hamjepa_audit.errors import UserError, nearest
from hamjepa_audit.params.arms import ArmParams, Integrator
from hamjepa_audit.params.base import Params
from hamjepa_audit.params.explanation import Place, explain
from hamjepa_audit.params.reading import Tree, read_yaml
from hamjepa_audit.params.studies import RunParams, StudyParams
from hamjepa_audit.params.widths import FOLLOWED, with_width, without_word

_Model = TypeVar("_Model", bound=Params)
_FOLDERS = {"study": "studies", "arm": "arms", "selection": "selections"}
_INTEGRATORS = set(get_args(Integrator))


def study_names(folder: Path) -> list[str]:
    """The studies below a params folder, sorted.

    Raises:
        UserError: there are none, so it is not a params folder.
    """
    names = sorted(path.stem for path in (folder / "studies").glob("*.yaml"))
    if not names:
        raise UserError(
            f"there are no parameters in {folder.absolute()}: correct --params, or run this in the "
            f"audit's folder"
        )
    return names


def require_study(folder: Path, name: str, where: str = "") -> None:
    """Refuses the name of a study that a params folder lacks; `where` prefixes the message.

    Raises:
        UserError: there is no such study, or no params folder.
    """
    study_names(folder)  # refuses any other folder
    _file_of(folder, "study", name, where)


def _file_of(folder: Path, kind: str, name: str, where: str) -> Path:
    """The file of a study, arm or selection; `where` prefixes the message that there is none."""
    place = folder / _FOLDERS[kind]
    allowed = [path.stem for path in place.glob("*.yaml")]
    if name not in allowed:
        raise UserError(f"{where}no {kind} '{name}' in {place}: {nearest(name, allowed)}")
    return place / f"{name}.yaml"


def load_study(folder: Path, name: str) -> StudyParams:
    """The resolved parameters of a study.

    Raises:
        UserError: no such study or arm, unreadable YAML, an unknown key, a value of the wrong
            type or out of range.
    """
    tree = _study_tree(folder, name, ())
    overrides = tree.pop("arm_overrides", {})
    arms = tree.pop("arms", [])
    where = f"study '{name}'"
    if not isinstance(arms, list) or not isinstance(overrides, dict):
        raise UserError(f"{where}: arms must be a list of names and arm_overrides a mapping")
    for arm, override in overrides.items():
        _file_of(folder, "arm", arm, f"{where}: arm_overrides: ")
        if not isinstance(override, dict):
            raise UserError(f"{where}: arm_overrides.{arm} is {override!r}: give it a mapping")
    trees = [without_word(_arm_tree(folder, arm, overrides, where, ()), where) for arm in arms]
    tree["arms"] = [arm for arm, _ in trees]
    words = {arm["name"]: word for arm, word in trees if word is not None}
    place = partial(_as_written, folder, overrides)
    study = validate(StudyParams, tree | {"name": name}, where, place)
    for key in ("baseline", "method"):
        known = getattr(study.statistics.gain, key)
        _file_of(folder, "arm", known, f"{where}: statistics.gain.{key}: ")
    if not words:
        return study
    followed = validate(
        ArmParams,
        _arm_tree(folder, FOLLOWED, overrides, where, ()),
        where,
        lambda keys: place(["arms", FOLLOWED, *keys]),
    )
    return _with_widths(study, words, followed)


def require_own_data(folder: Path, study: StudyParams) -> None:
    """Checks that no other study describes the same data set differently.

    Otherwise preparing the data of one would replace those of the other.

    Raises:
        UserError: one does.
    """
    own = study.data.description()
    for name in study_names(folder):
        try:
            other = load_study(folder, name).data.description()
        except UserError:  # reported when that study is used
            continue
        if other["name"] == own["name"] and other != own:
            raise UserError(
                f"the studies '{study.name}' and '{name}' describe the data set '{own['name']}' "
                f"differently; give one of the two another data.name"
            )


def resolve_run(study: StudyParams, arm: str, epochs: int, seed: int) -> RunParams:
    """The parameters of one run of a study.

    Any seed may be run; epochs must be among the study's, because they determine the schedule.

    Raises:
        UserError: the study has no such arm or epochs, or the seed is out of range.
    """
    arms = {params.name: params for params in study.arms}
    if arm not in arms:
        raise UserError(
            f"study '{study.name}' has no arm '{arm}' (arms are named in "
            f"params/studies/{study.name}.yaml): {nearest(arm, arms)}"
        )
    if epochs not in study.epochs:
        raise UserError(
            f"study '{study.name}' has no runs of {epochs} epochs: allowed {list(study.epochs)}; "
            f"add it to params/studies/{study.name}.yaml"
        )
    shared = {"data", "encoder", "views", "optimisation", "evaluation"}
    tree = study.model_dump(mode="json", include=shared) | {
        "study": study.name,
        "arm": arms[arm].model_dump(mode="json"),
        "epochs": epochs,
        "seed": seed,
    }
    return validate(RunParams, tree, f"run of study '{study.name}'")


def validate(model: type[_Model], tree: Tree, where: str, place: Place = list) -> _Model:
    """Validates `tree` as a `model`; an error names the first problem in one line.

    `where` says what the parameters belong to, for the start of the message; `place` is as in
    `explain`.

    Raises:
        UserError: a key is unknown or missing, or a value of the wrong type or out of range.
    """
    try:
        # Through JSON, because strict validation of JSON accepts a list for a tuple.
        return model.model_validate_json(json.dumps(tree))
    except TypeError as error:
        raise UserError(f"{where}: {error}; put the value in quotes") from error
    except ValidationError as error:
        raise UserError(f"{where}: {explain(model, tree, error, place)}") from error


def read_params(model: type[_Model], path: Path) -> _Model:
    """The parameters in a YAML file that is read as it is.

    Raises:
        UserError: missing, not YAML, an unknown key, or a value of the wrong type or range.
    """
    return validate(model, read_yaml(path), str(path))


def _study_tree(folder: Path, name: str, seen: tuple[str, ...]) -> Tree:
    require_study(folder, name, f"study '{seen[-1]}' extends another: " if seen else "")
    _reject_cycle("study", name, seen)
    tree = read_yaml(folder / "studies" / f"{name}.yaml")
    _require_keys(tree, f"study '{name}'")
    parent = tree.pop("extends", None)
    if parent is None:
        base = read_yaml(folder / "protocol.yaml")
    else:
        base = _study_tree(folder, parent, (*seen, name))
    selection = tree.pop("selection", None)
    if selection is not None:
        chosen = read_yaml(_file_of(folder, "selection", selection, f"study '{name}': "))
        base = merge(base, chosen)
    return merge(base, tree)


def _require_keys(tree: Tree, where: str) -> None:
    """Raises UserError for a study's unknown key, which may be a misspelt required one."""
    allowed = {*StudyParams.model_fields, "arm_overrides", "extends", "selection"} - {"name"}
    for key in tree:
        if key not in allowed:
            raise UserError(f"{where}: unknown key '{key}': {nearest(key, allowed)}")


def _arm_tree(folder: Path, name: str, overrides: Tree, where: str, seen: tuple[str, ...]) -> Tree:
    file = _file_of(folder, "arm", name, f"{where}: ")
    _reject_cycle("arm", name, seen)
    tree = read_yaml(file)
    parent = tree.pop("extends", None)
    if parent is not None:
        tree = merge(_arm_tree(folder, parent, overrides, where, (*seen, name)), tree)
    return merge(tree, overrides.get(name, {})) | {"name": name}


def _as_written(folder: Path, overrides: Tree, keys: list[str]) -> list[str]:
    """The keys with which a value of a study's tree is written in the study file or an arm file.

    Arms inherit, so a value of an arm may be written in an arm that it extends, or in an override
    of that arm.
    """
    if keys[:1] != ["arms"]:
        return keys
    arm, rest = keys[1] if len(keys) > 1 else None, keys[2:]
    while rest and arm is not None:
        tree = read_yaml(folder / "arms" / f"{arm}.yaml")
        for part, written in (("arm_overrides", overrides.get(arm)), ("arms", tree)):
            if _has(written, rest):
                return [part, arm, *rest]
        arm = tree.get("extends")
    return keys


def _has(tree: Any, keys: Sequence[str]) -> bool:
    """Whether a tree contains the value at some keys; a list counts with all its items."""
    for key in keys:
        if isinstance(tree, list):
            return True
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _with_widths(study: StudyParams, words: dict[str, str], followed: ArmParams) -> StudyParams:
    """The study with the widths of arms that were given by words replaced by what these mean."""
    dimension = study.encoder.state_dimension(study.views.size)
    arms = [
        with_width(arm, words[arm.name], followed, dimension) if arm.name in words else arm
        for arm in study.arms
    ]
    return study.model_copy(update={"arms": tuple(arms)})


def _reject_cycle(kind: str, name: str, seen: tuple[str, ...]) -> None:
    if name in seen:
        raise UserError(f"{kind} '{name}' extends itself: {' -> '.join((*seen, name))}")


def merge(base: Tree, override: Tree) -> Tree:
    """Merges `override` over `base`, recursively.

    A mapping with another `kind` (or `source`) than the base's replaces it as a whole, because
    settings of one predictor don't apply to another. The integrators, which share their settings,
    are merged.
    """
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _replaces(old, value):
            result[key] = merge(old, value)
        else:
            result[key] = value
    return result


def _replaces(old: Tree, new: Tree) -> bool:
    if {old.get("kind"), new.get("kind")} <= _INTEGRATORS:
        return False
    return any(tag in new and new[tag] != old.get(tag) for tag in ("kind", "source"))
