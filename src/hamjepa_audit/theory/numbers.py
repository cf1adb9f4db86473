"""All numbers of the theory: theorems, toy experiment, and data of the figures."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch

from hamjepa_audit.params.claims import ToyTransport
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.theory.checks import run_checks
from hamjepa_audit.theory.pictures import area_preservation, defects, energy_drift, reversal
from hamjepa_audit.theory.theorems import all_checks
from hamjepa_audit.theory.transport import compare_setups, nearest_setup
from hamjepa_audit.theory_schemas import NUMBERS


def theory_numbers(
    params: TheoryParams, claim: ToyTransport, say: Callable[[str], None]
) -> dict[str, pa.Table]:
    """Every table of NUMBERS, by name; `say` gets a line for each step done.

    Raises:
        UserError: the tolerances of the parameters are not those of the theorems.
    """
    rows: dict[str, list[dict[Any, Any]]] = {"checks": run_checks(all_checks(params), params, say)}
    with torch.no_grad():
        setups = compare_setups(params, claim, say)
        states, directions = nearest_setup(params, claim, setups[0])
        rows["toy_transport_setups"] = setups
        rows["toy_transport_states"] = states
        rows["toy_transport_directions"] = directions
        for name, picture in (
            ("energy_drift", energy_drift),
            ("area_preservation", area_preservation),
            ("reversibility", reversal),
            ("symplecticity_defect", defects),
        ):
            rows[name] = picture(params).to_dict("records")
            say(f"figure's numbers: {name}")
    return {name: pa.Table.from_pylist(rows[name], schema=NUMBERS[name]) for name in NUMBERS}
