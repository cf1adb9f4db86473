"""Code that the rules share: the studies' parameters and plans."""

import contextlib
import functools
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from hamjepa_audit.bookkeeping.table_provenance import outdated_tables
from hamjepa_audit.plans.audit import CONSISTENCY, VERDICTS, AuditPlan, joint_tables
from hamjepa_audit.errors import UserError
from hamjepa_audit.plans.figures import has_trajectories, measured_figures
from hamjepa_audit.files import canonical_json, read_json, write_if_changed
from hamjepa_audit.layout import PROVENANCE, Layout
from hamjepa_audit.locking import sole_process
from hamjepa_audit.machine import gpu_count
from hamjepa_audit.metrics import LONG_TABLES
from hamjepa_audit.plans.page import page_selection as selected_for_page
from hamjepa_audit.params import load_study
from hamjepa_audit.plans.gain import gain_figures
from hamjepa_audit.params.config import ConfigParams
from hamjepa_audit.params.loading import require_own_data, validate
from hamjepa_audit.plans.study import ALL_STEPS, GAIN, TABLE_FORMS, TABLES, StudyPlan, data_digest
from hamjepa_audit.plans.theory import TheoryPlan, theory_files, theory_numbers


def reporting_user_errors(function):
    """Wraps a function so that a UserError is shown as one line, without a traceback."""

    @functools.wraps(function)
    def wrapped(*arguments):
        try:
            return function(*arguments)
        except UserError as error:
            raise WorkflowError(str(error))

    return wrapped


CONFIG = reporting_user_errors(validate)(ConfigParams, dict(config), "params/config.yaml, --config")
LAYOUT = Layout(raw=Path(CONFIG.raw))
STUDIES = CONFIG.studies

# Compute jobs request a GPU if this machine has one, or if the configuration asks for it because
# this machine only submits jobs.
GPU_JOB = {"cpu": 0, "cuda": 1, "auto": min(1, gpu_count())}[CONFIG.device]

# The trailing options of commands that compute on a device.
ON_DEVICE = (
    f"--device {CONFIG.device} --runs-per-gpu {CONFIG.runs_per_gpu}"
    " --threads {threads} > {log} 2>&1"
)

# On this machine, concurrent GPU jobs are limited to the places on its GPUs, unless `--resources
# gpu=N` is given. On a cluster (where Snakemake counts nodes, not cores) the scheduler decides.
ON_THIS_MACHINE = workflow.is_main_process and workflow.global_resources["_nodes"].value is None
if workflow.is_main_process:
    if ON_THIS_MACHINE:
        if "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", max(1, gpu_count()) * CONFIG.runs_per_gpu)
    elif CONFIG.device == "auto" and not GPU_JOB:
        logger.warning(
            "device is 'auto' and this machine has no GPU: jobs will ask for none; "
            "`--config device=cuda` makes them ask for one"
        )

# Names of a run and of a batch (the runs of one arm), in the format of hamjepa_audit.plans.identity.
RUN = "{study}-{arm}-e{epochs}-s{seed}-{digest}"
BATCH = "{study}-{arm}-e{epochs}-{digest}"
TABLE_FILES = [f"{name}.{ending}" for name in TABLES for ending in TABLE_FORMS]

# The options of commands that take all studies.
OF_STUDIES = " ".join(f"--study {name}" for name in STUDIES)


# Where a dry run writes files that it must not change in results/; deleted when Snakemake exits.
ASIDE = tempfile.TemporaryDirectory(prefix="hamjepa-audit-")


# Where each selection is, by its path in results/ and its content: there, or in ASIDE.
CHECKED = {}

# Held until Snakemake ends.
LOCKS = contextlib.ExitStack()


@functools.cache
@reporting_user_errors
def lock_selections():
    """Stops this call if another one is running in this folder.

    Snakemake's own lock comes too late: selections are written while the graph is built.
    """
    if workflow.is_main_process and workflow.execution_settings.lock:
        LOCKS.enter_context(sole_process(Path(".snakemake/selections.lock"), "the workflow"))


@reporting_user_errors
def noted(path, content):
    """Writes a JSON file that lists what outputs depend on, only if the content changes.

    Rules take it as input, so that they don't rely on Snakemake's metadata. Tables that say that
    they were made from other content, such as older ones fetched from git, are deleted: Snakemake
    would keep them. If no job will run (`-n`, `--dag`, `--summary`), the file is written to a
    temporary folder instead, so that the same jobs are announced but nothing is modified. Returns
    the path.
    """
    runs_jobs = workflow.executor_plugin is not None and not workflow.dryrun
    if runs_jobs:
        lock_selections()
    known = (path, canonical_json(content))
    if known not in CHECKED:
        same = path.exists() and canonical_json(read_json(path)) == canonical_json(content)
        # If the content changes now, Snakemake itself makes the tables again.
        outdated = outdated_tables(LAYOUT, path, content) if same else []
        CHECKED[known] = path
        if not runs_jobs and (outdated or not same):
            CHECKED[known] = Path(ASIDE.name) / path.relative_to(path.anchor)
        write_if_changed(CHECKED[known], content)
        if runs_jobs and workflow.is_main_process:
            for table in outdated:
                table.unlink()
    return CHECKED[known]


@functools.cache
@reporting_user_errors
def study(name):
    """Parameters of a study."""
    return load_study(LAYOUT.params, name)


@functools.cache
@reporting_user_errors
def plan_for(name, digest):
    """Plan of a study for the digest of its data."""
    return StudyPlan(LAYOUT, study(name), digest)


def plan(name):
    """Plan of a study; unless its parameters pin the data's digest, the data are prepared first."""
    digest = study(name).data.digest
    if digest is None:
        checkpoints.prepare.get(dataset=study(name).data.name)
        digest = reporting_user_errors(data_digest)(LAYOUT, study(name))
    return plan_for(name, digest)


def prepared_data(wildcards):
    """The data of a run, which must be one of the study's runs; adopted runs need none."""
    run = RUN.format(**wildcards)
    if run not in plan(wildcards.study).runs:
        raise WorkflowError(
            f"run '{run}' is not a run of study '{wildcards.study}' with its current parameters; "
            "ask for results/tables, or for one of its runs"
        )
    if plan(wildcards.study).batch_of(run).adopted:
        return []
    return LAYOUT.manifest(study(wildcards.study).data.name)


def batch(wildcards):
    """The batch of runs that an evaluation file belongs to."""
    name = BATCH.format(**wildcards)
    batches = plan(wildcards.study).batches
    if name not in batches:
        raise WorkflowError(
            f"batch '{name}' is not one of study '{wildcards.study}' with its current parameters; "
            "ask for results/tables"
        )
    return batches[name]


def checkpoints_of(wildcards):
    """The checkpoints of a batch; adopted runs need none."""
    of_batch = batch(wildcards)
    return [] if of_batch.adopted else [LAYOUT.checkpoint(name) for name in of_batch.run_ids]


def training_gpus(wildcards):
    """GPU resources of a run: one place on a GPU, or for several GPUs, all places of each."""
    gpus = study(wildcards.study).gpus
    places = CONFIG.runs_per_gpu if ON_THIS_MACHINE and gpus > 1 else 1
    return GPU_JOB * gpus * places


def launcher(wildcards):
    """The torchrun prefix of the command for a run on several GPUs; empty for one."""
    gpus = GPU_JOB * study(wildcards.study).gpus
    return f"torchrun --standalone --nproc-per-node {gpus} --no-python " if gpus > 1 else ""


def features_of(wildcards):
    """The features of a batch."""
    return batch(wildcards).features


def selection(wildcards):
    """The file that lists a study's runs and measurements."""
    return selection_of(wildcards.study)


def selection_of(name):
    """The selection of a study by its name, for rules without a `study` wildcard."""
    return noted(LAYOUT.selection(name), plan(name).selection())


def measurements(wildcards):
    """All measurements and histories of a study's runs."""
    chosen = plan(wildcards.study)
    return chosen.measurements(*ALL_STEPS) + chosen.histories()


def records(wildcards):
    """The records of a study's runs: their inputs and circumstances."""
    return [LAYOUT.record(run) for run in plan(wildcards.study).runs]


def made_from(wildcards):
    """The records, histories, measurements and long tables of all studies.

    The final targets ask for them, because Snakemake does not look for a missing file if what is
    made from it exists.
    """
    plans = [plan(name) for name in STUDIES]
    return [
        *all_records(wildcards),
        *(path for each in plans for path in each.histories() + each.measurements(*ALL_STEPS)),
        *(LAYOUT.study_table(name, kind) for name in STUDIES for kind in LONG_TABLES),
    ]


def all_selections(wildcards):
    """The selections of all studies."""
    return [selection_of(name) for name in STUDIES]


def all_records(wildcards):
    """The records of all studies' runs."""
    return [LAYOUT.record(run) for name in STUDIES for run in plan(name).runs]


def audit_files(*names):
    """Tables of verdicts."""
    return [LAYOUT.audit_tables() / f"{name}.{form}" for name in names for form in TABLE_FORMS]


@functools.cache
@reporting_user_errors
def audit_plan():
    """The paper's claims, and how they are tested."""
    return AuditPlan.load(LAYOUT)


def claims_selection(wildcards):
    """The file that lists which claims are tested, and how."""
    return noted(LAYOUT.claims_selection(), audit_plan().selection())


def studies_selection(wildcards):
    """The file that lists the studies that are audited together."""
    return noted(LAYOUT.studies_selection(), sorted(STUDIES))


def page_selection(wildcards):
    """The file that lists the titles and captions that the page shows."""
    return noted(LAYOUT.page_selection(), reporting_user_errors(selected_for_page)(LAYOUT))


@functools.cache
@reporting_user_errors
def theory_plan():
    """The plan of the theorems' checks."""
    return TheoryPlan.load(LAYOUT)


def theory_selection(wildcards):
    """The file that lists what the theorems' checks depend on."""
    return noted(LAYOUT.theory_selection(), theory_plan().selection())


def drawn(name, figures):
    """Paths, as PNG and PDF, of the figures that a function names for each number of epochs.

    Snakemake's report shows the PNG with its caption.
    """
    paths = []
    for epochs in study(name).epochs:
        for figure in figures(epochs):
            stem = LAYOUT.figures(name) / f"{figure}_e{epochs}"
            shown = report(
                f"{stem}.png",
                caption=f"../report/{figure}.rst",
                category=study(name).title,
                subcategory=f"{epochs} epochs",
                labels={"figure": figure.replace("_", " ")},
            )
            paths += [shown, f"{stem}.pdf"]
    return paths


def figure_files(name):
    """The figures of a study that compare the arms' measurements."""
    return drawn(name, lambda epochs: measured_figures(study(name), epochs))


def audit_figure_files(name):
    """The figures of a study beside the paper's claims, and of what its seeds can detect."""
    return drawn(name, lambda epochs: audit_plan().figures(name, epochs))


def gain_files(name):
    """Table and figures of what carries the gain, if the study has the arms for it."""
    figures = gain_figures(study(name))
    tables = [LAYOUT.tables(name) / f"{GAIN}.{form}" for form in TABLE_FORMS if figures]
    return tables + drawn(name, lambda epochs: figures)


def tables_and_figures():
    """All tables with their provenance, the joint metrics, and all figures."""
    return [
        *(LAYOUT.tables(name) / table for name in STUDIES for table in [*TABLE_FILES, PROVENANCE]),
        *joint_tables(LAYOUT),
        LAYOUT.audit_tables() / PROVENANCE,
        LAYOUT.metrics(),
        *(path for name in STUDIES for path in figure_files(name) + audit_figure_files(name)),
        *(path for name in STUDIES for path in gain_files(name)),
    ]


wildcard_constraints:
    dataset=r"[a-z][a-z0-9_]*",
    study=r"[a-z][a-z0-9_]*",
    arm=r"[a-z][a-z0-9_]*",
    epochs=r"\d+",
    seed=r"\d+",
    digest=r"[0-9a-f]{12}",
    settings=r"[0-9a-f]{12}",
