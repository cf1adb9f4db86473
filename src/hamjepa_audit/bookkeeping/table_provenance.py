"""The provenance of tables: a sealed file beside them that also contains their digests.

Times and machines are recorded here and not in the tables, so that the same runs give the same
tables.
"""

import contextlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hamjepa_audit.bookkeeping.provenance import code_and_environment
from hamjepa_audit.bookkeeping.records import Record, read_record
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import (
    digest_of,
    read_json,
    read_sealed_json,
    require_sha256,
    sha256_file,
    write_sealed_json,
)
from hamjepa_audit.layout import PROVENANCE, Layout
from hamjepa_audit.parquet import read_parquet
from hamjepa_audit.plans.audit import AuditPlan, joint_tables
from hamjepa_audit.plans.figures import stale_figures
from hamjepa_audit.plans.study import StudyPlan
from hamjepa_audit.plans.theory import THEORY_NUMERICS, TheoryPlan, theory_files, theory_numbers

SCHEMA = 2

FORMS = b"hamjepa-audit-forms"
"""The key of a table's Parquet metadata that holds the SHA-256 of its other formats, as JSON."""

MADE_FROM = b"origin"
"""The key of a table's Parquet metadata that holds the line of `origin_of`, if it has one."""

ENVIRONMENT = (
    "version", "commit", "uncommitted_changes", "lock_sha256", "python", "packages", "platform",
    "device", "determinism", "training_numerics",
)  # fmt: skip
"""What most runs of a study have in common; each distinct combination is listed only once."""

OF_RUN = ("study", "arm", "epochs", "seed", "data_digest", "started", "ended", "peak_memory")
"""What is listed for each run; the rest is in its record."""


def origin_of(path: Path, selection: Any) -> str:
    """A line for the foot of a table; it changes exactly when the selection, its source, does."""
    return f"made from {path.parent.name}/{path.name} {digest_of(selection)[:12]}"


def write_study_provenance(plan: StudyPlan, audit: AuditPlan) -> Path:
    """Writes the provenance of a study's tables; deletes tables and figures no longer planned.

    The claims determine some of its figures.

    Raises:
        UserError: a table or a run's record is missing, changed or damaged; or the parameters now
            give another selection than the one that the tables were made from.
    """
    layout, name = plan.layout, plan.study.name
    selections = {layout.selection(name): plan.selection()}
    target = _write(layout, layout.tables(name), plan.tables(), _of_studies([plan]), selections)
    for path in [*plan.stale_tables(), *stale_figures(plan.study, audit)]:
        path.unlink()
    return target


def write_audit_provenance(audit: AuditPlan, plans: Sequence[StudyPlan]) -> Path:
    """Writes the provenance of the tables of verdicts on some studies, and of the mean values.

    Raises:
        UserError: as `write_study_provenance`.
    """
    layout = audit.layout
    selections: dict[Path, Any] = {
        layout.selection(plan.study.name): plan.selection() for plan in plans
    }
    selections[layout.studies_selection()] = sorted(plan.study.name for plan in plans)
    selections[layout.claims_selection()] = audit.selection()
    made_of = _of_studies(plans)
    return _write(layout, layout.audit_tables(), joint_tables(layout), made_of, selections)


def write_theory_provenance(plan: TheoryPlan) -> Path:
    """Writes the provenance of the checks of the theorems.

    Raises:
        UserError: a file is missing, or the parameters now give another selection than the one that
            the checks were run with.
    """
    made_of = {"params": {"theory": plan.selection()}, "theory_numerics": THEORY_NUMERICS}
    selections = {plan.layout.theory_selection(): plan.selection()}
    files = [*theory_files(plan.layout), *theory_numbers(plan.layout)]
    return _write(plan.layout, plan.layout.theory(), files, made_of, selections)


def _write(
    layout: Layout,
    folder: Path,
    files: Sequence[Path],
    made_of: Mapping[str, Any],
    selections: Mapping[Path, Any],
) -> Path:
    for path, selection in selections.items():
        if digest_of(read_json(path)) != digest_of(selection):
            raise UserError(
                f"{path} does not match the current parameters, so the tables in {folder} may be "
                f"of earlier ones; make results/tables again"
            )
    origins = {origin_of(path, selection) for path, selection in selections.items()}
    for path in files:
        if path.suffix == ".parquet":
            _require_forms(path, origins)
    content = {
        "schema": SCHEMA,
        "made_with": code_and_environment(),
        **made_of,
        "selections": {
            path.relative_to(layout.results).as_posix(): digest_of(selection)
            for path, selection in selections.items()
        },
        "files": {
            Path(os.path.relpath(path, folder)).as_posix(): sha256_file(path) for path in files
        },
    }
    target = folder / PROVENANCE
    write_sealed_json(target, content)
    return target


def _require_forms(path: Path, origins: Collection[str]) -> None:
    """Checks that a table is made from a current selection, and that no format of it was edited.

    Otherwise it must not get a digest.
    """
    metadata = read_parquet(path, sealed=True).schema.metadata or {}
    origin = metadata.get(MADE_FROM, b"").decode()
    if origin and origin not in origins:
        raise UserError(
            f"{path} says that it is {origin}, but the current one is another; delete it and give "
            f"the same command again"
        )
    for name, recorded in json.loads(metadata.get(FORMS, "{}")).items():
        remedy = "delete it and give the same command again"
        require_sha256(path.with_name(name), recorded, path, remedy)


def _of_studies(plans: Sequence[StudyPlan]) -> dict[str, Any]:
    """The parameters, environments and runs of studies."""
    records = [read_record(plan.layout, run) for plan in plans for run in plan.runs]
    environments = [{name: record[name] for name in ENVIRONMENT} for record in records]
    distinct = [one for place, one in enumerate(environments) if one not in environments[:place]]
    return {
        "params": {plan.study.name: plan.study.model_dump(mode="json") for plan in plans},
        "environments": distinct,
        "runs": {
            record["run_id"]: _of_run(record, distinct.index(environment))
            for record, environment in zip(records, environments, strict=True)
        },
    }


def _of_run(record: Record, environment: int) -> dict[str, Any]:
    entry = {name: record[name] for name in OF_RUN}
    return entry | {"resumed": len(record["resumed"]), "environment": environment}


def sealed_files(path: Path) -> list[Path]:
    """The files whose digests a provenance contains.

    Raises:
        UserError: the provenance is missing, changed or damaged.
    """
    return [path.parent / name for name in read_sealed_json(path)["files"]]


def check_table_provenance(path: Path) -> None:
    """Checks that a provenance and the files that it names are unchanged.

    Raises:
        UserError: one of them is missing, changed or damaged.
    """
    for name, recorded in read_sealed_json(path)["files"].items():
        table = Path(os.path.normpath(path.parent / name))
        require_sha256(table, recorded, path, "fetch it again, or delete it and make it again")


def outdated_tables(layout: Layout, selection: Path, content: Any) -> list[Path]:
    """The existing tables that were made from a selection with other content than this.

    These are the files that provenances with another digest of the selection name, and these
    provenances; one that can't be read is passed over.
    """
    files: list[Path] = []
    for path in layout.provenances():
        with contextlib.suppress(UserError):  # `verify` reports it
            recorded = read_sealed_json(path).get("selections", {})
            digests = {layout.results / name: digest for name, digest in recorded.items()}
            if digests.get(selection, digest_of(content)) != digest_of(content):
                files += [*sealed_files(path), path]
    return [file for file in files if file.exists()]


def check_selections(layout: Layout, path: Path) -> None:
    """Checks that selections, if they exist, are those that a provenance's tables were made from.

    A selection that was written since then with other content means that the tables are stale.

    Raises:
        UserError: a selection differs; or the provenance is changed, damaged or of another version.
    """
    content = read_sealed_json(path)
    if content["schema"] != SCHEMA:
        raise UserError(
            f"{path} has format version {content['schema']}, not {SCHEMA}; delete it and make it "
            f"again"
        )
    for name, recorded in content["selections"].items():
        selection = layout.results / name
        if selection.exists() and digest_of(read_json(selection)) != recorded:
            raise UserError(
                f"the contents of {path.parent} were not made from {selection} as it is now: the "
                f"parameters have changed since; make them again, or fetch that selection again"
            )
