"""The schemas of the tables that the theory's checks write and the reporting reads."""

import pyarrow as pa

CHECKS_SCHEMA = pa.schema(
    [
        ("check", pa.string()),
        ("statement", pa.string()),
        ("source", pa.string()),
        ("instances", pa.int64()),
        ("error", pa.string()),
        ("worst_error", pa.float64()),
        ("tolerance", pa.float64()),
        ("holds", pa.bool_()),
    ]
)
"""One row per theorem: `error` names the error measured; `holds` is worst_error <= tolerance."""

SETUP_COLUMNS = [
    ("potential", pa.string()),
    ("centre_q", pa.float64()),
    ("centre_p", pa.float64()),
    ("spread_q", pa.float64()),
    ("spread_p", pa.float64()),
]
"""The columns that identify a set-up of the toy experiment."""

SETUPS_SCHEMA = pa.schema(
    [
        *SETUP_COLUMNS,
        ("samples", pa.int64()),
        *(
            (f"{model}_{of}", pa.float64())
            for model in ("euler", "leapfrog")
            for of in ("mean", "max")
        ),
        ("worst_deviation", pa.float64()),
    ]
)
"""One row per set-up: mean and maximum of W1 over directions; worst_deviation is the largest
|ours / paper - 1|."""

STATES_SCHEMA = pa.schema(
    [
        *SETUP_COLUMNS,
        ("states", pa.string()),
        ("q", pa.float64()),
        ("p", pa.float64()),
    ]
)
"""One row per state of the nearest set-up: at the start, or after one of the integrators."""

DIRECTIONS_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("angle", pa.float64()),
        ("distance", pa.float64()),
    ]
)
"""One row per direction (angle from the q axis, radians) and model, of the nearest set-up."""

DRIFT_SCHEMA = pa.schema(
    [
        ("integrator", pa.string()),
        ("q", pa.float64()),
        ("p", pa.float64()),
        ("drift", pa.float64()),
        ("step_size", pa.float64()),
        ("steps", pa.int64()),
    ]
)
"""One row per initial state: the largest |H - H at the start| along its trajectory."""

AREA_SCHEMA = pa.schema(
    [
        ("integrator", pa.string()),
        ("steps", pa.int64()),
        ("point", pa.int64()),
        ("q", pa.float64()),
        ("p", pa.float64()),
        ("area_ratio", pa.float64()),
        ("step_size", pa.float64()),
    ]
)
"""One row per point of a disc's outline after some steps, with the disc's area relative to the
start."""

REVERSAL_SCHEMA = pa.schema(
    [
        ("integrator", pa.string()),
        ("steps", pa.int64()),
        ("error", pa.float64()),
        ("step_size", pa.float64()),
    ]
)
"""One row per number of steps forward and back: the largest distance of a state from its start."""

DEFECT_SCHEMA = pa.schema(
    [
        ("integrator", pa.string()),
        ("precision", pa.string()),
        ("step_size", pa.float64()),
        ("defect", pa.float64()),
        ("steps", pa.int64()),
    ]
)
"""One row per step size: the symplecticity defect of the map of a learned potential."""

NUMBERS = {
    "checks": CHECKS_SCHEMA,
    "toy_transport_setups": SETUPS_SCHEMA,
    "toy_transport_states": STATES_SCHEMA,
    "toy_transport_directions": DIRECTIONS_SCHEMA,
    "energy_drift": DRIFT_SCHEMA,
    "area_preservation": AREA_SCHEMA,
    "reversibility": REVERSAL_SCHEMA,
    "symplecticity_defect": DEFECT_SCHEMA,
}
"""The schema of every table, by the name of its file."""
