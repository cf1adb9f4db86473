"""What the rules share: the studies' parameters and plans."""

import functools
import glob
from pathlib import Path

from snakemake.exceptions import WorkflowError

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_if_changed
from hamjepa_audit.layout import Layout
from hamjepa_audit.params import load_study
from hamjepa_audit.plan import STEPS, StudyPlan, data_digest

LAYOUT = Layout(raw=Path(config["raw"]))
AUDIT = f"hamjepa-audit --raw {LAYOUT.raw}"
STUDIES = config["studies"]

# Jobs that compute ask for a GPU where there is one, or where the configuration says so because
# this machine only submits them.
HAS_GPU = config["device"] == "cuda" or bool(glob.glob("/dev/nvidia[0-9]*"))
GPU_JOB = 1 if HAS_GPU and config["device"] != "cpu" else 0


def reporting_user_errors(function):
    """What the user can mend is shown as one line, not as a traceback."""

    @functools.wraps(function)
    def wrapped(*arguments):
        try:
            return function(*arguments)
        except UserError as error:
            raise WorkflowError(str(error))

    return wrapped


@functools.cache
@reporting_user_errors
def study(name):
    """Parameters of a study."""
    return load_study(LAYOUT.params, name)


@functools.cache
@reporting_user_errors
def plan_for(name, digest):
    """Plan of a study for a digest of its data."""
    return StudyPlan(LAYOUT, study(name), digest)


def plan(name):
    """Plan of a study; unless its parameters pin the data, they have to be prepared first."""
    digest = study(name).data.digest
    if digest is None:
        checkpoints.prepare.get(dataset=study(name).data.name)
        digest = reporting_user_errors(data_digest)(LAYOUT, study(name))
    return plan_for(name, digest)


wildcard_constraints:
    dataset=r"[a-z][a-z0-9_]*",
    study=r"[a-z][a-z0-9_]*",
    arm=r"[a-z][a-z0-9_]*",
    epochs=r"\d+",
    seed=r"\d+",
    digest=r"[0-9a-f]{12}",
    features=r"[0-9a-f]{12}",
    step=r"[0-9a-f]{12}",
