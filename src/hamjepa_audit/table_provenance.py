"""What tables were made of and with: a sealed file beside them, which also seals them.

Times and machines are in here and not in the tables, so that the same runs give the same tables.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hamjepa_audit.errors import UserError
from hamjepa_audit.files import digest_of, read_sealed_json, sha256_file, write_sealed_json
from hamjepa_audit.plan import StudyPlan
from hamjepa_audit.provenance import code_and_environment
from hamjepa_audit.records import Record, read_record

NAME = "provenance.json"
SCHEMA = 1

ENVIRONMENT = (
    "version", "commit", "uncommitted_changes", "lock_sha256", "python", "packages", "platform",
    "device", "determinism", "training_numerics",
)  # fmt: skip
"""What the runs of a study mostly have in common; said once for all that do."""

OF_RUN = ("study", "arm", "epochs", "seed", "data_digest", "started", "ended", "peak_memory")
"""What is said of each run; the rest is in its record."""


def origin_of(selection: Any) -> str:
    """A line that a table may carry: it changes exactly when the runs or the statistics do.

    Args:
        selection: what `StudyPlan.selection` gives.
    """
    return f"made of the runs in {NAME}, selection {digest_of(selection)[:12]}"


def write_table_provenance(plans: Sequence[StudyPlan], folder: Path) -> Path:
    """Writes what the tables in a folder were made of: `provenance.json`, sealed.

    Args:
        plans: of the studies whose runs they are made of.
        folder: of the tables, all of which it then names with their digests.

    Returns:
        The file.

    Raises:
        UserError: there are no tables, or a run's record is missing, changed or damaged.
    """
    target = folder / NAME
    tables = [path for path in sorted(folder.glob("[!.]*")) if path.is_file() and path != target]
    if not tables:
        raise UserError(f"no tables in {folder}; run: hamjepa-audit tables")
    records = [read_record(plan.layout, run) for plan in plans for run in plan.runs]
    environments = [{name: record.get(name) for name in ENVIRONMENT} for record in records]
    distinct = [one for place, one in enumerate(environments) if one not in environments[:place]]
    content = {
        "schema": SCHEMA,
        "made_with": code_and_environment(),
        "params": {plan.study.name: plan.study.model_dump(mode="json") for plan in plans},
        "selections": {plan.study.name: origin_of(plan.selection()) for plan in plans},
        "environments": distinct,
        "runs": {
            record["run_id"]: _of_run(record, distinct.index(environment))
            for record, environment in zip(records, environments, strict=True)
        },
        "files": {path.name: sha256_file(path) for path in tables},
    }
    write_sealed_json(target, content)
    return target


def _of_run(record: Record, environment: int) -> dict[str, Any]:
    told = {name: record.get(name) for name in OF_RUN}
    return told | {"resumed": len(record.get("resumed", [])), "environment": environment}


def check_table_provenance(path: Path) -> None:
    """That a file of `write_table_provenance` and the tables that it names are what was written.

    Raises:
        UserError: one of them is missing, changed or damaged.
    """
    for name, recorded in read_sealed_json(path)["files"].items():
        table = path.with_name(name)
        found = sha256_file(table)
        if found != recorded:
            raise UserError(
                f"{table} has the SHA-256 {found}, but {path.name} beside it says {recorded}: it "
                f"was changed or damaged; fetch it again, or delete it and make it again"
            )
