"""The schemas of the tables that the theory's checks write and the reporting reads."""

import pyarrow as pa

TEXT, COUNT, NUMBER = pa.string(), pa.int64(), pa.float64()

CHECKS_SCHEMA = pa.schema(
    {"check": TEXT, "statement": TEXT, "source": TEXT, "instances": COUNT, "error": TEXT}
    | {"worst_error": NUMBER, "tolerance": NUMBER, "holds": pa.bool_()}
)
"""One row per theorem: `error` names the error measured; `holds` is worst_error <= tolerance."""

SETUP = {"potential": TEXT} | dict.fromkeys(
    ("centre_q", "centre_p", "spread_q", "spread_p"), NUMBER
)
"""The columns that identify a set-up of the toy experiment."""

SETUPS_SCHEMA = pa.schema(
    SETUP
    | {"samples": COUNT, "euler_mean": NUMBER, "euler_max": NUMBER}
    | {"leapfrog_mean": NUMBER, "leapfrog_max": NUMBER, "worst_deviation": NUMBER}
)
"""One row per set-up: mean and maximum of W1 over directions; worst_deviation is the largest
|ours / paper - 1|."""

STATES_SCHEMA = pa.schema(SETUP | {"states": TEXT, "q": NUMBER, "p": NUMBER})
"""One row per state of the nearest set-up: at the start, or after one of the integrators."""

DIRECTIONS_SCHEMA = pa.schema({"model": TEXT, "angle": NUMBER, "distance": NUMBER})
"""One row per direction (angle from the q axis, radians) and model, of the nearest set-up."""

DRIFT_SCHEMA = pa.schema(
    {"integrator": TEXT, "q": NUMBER, "p": NUMBER, "drift": NUMBER}
    | {"step_size": NUMBER, "steps": COUNT}
)
"""One row per initial state: the largest |H - H at the start| along its trajectory."""

AREA_SCHEMA = pa.schema(
    {"integrator": TEXT, "steps": COUNT, "point": COUNT, "q": NUMBER, "p": NUMBER}
    | {"area_ratio": NUMBER, "step_size": NUMBER}
)
"""One row per point of a disc's outline after some steps, with the disc's area relative to the
start."""

REVERSAL_SCHEMA = pa.schema(
    {"integrator": TEXT, "steps": COUNT, "error": NUMBER, "step_size": NUMBER}
)
"""One row per number of steps forward and back: the largest distance of a state from its start."""

DEFECT_SCHEMA = pa.schema(
    {"integrator": TEXT, "precision": TEXT, "step_size": NUMBER, "defect": NUMBER, "steps": COUNT}
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
