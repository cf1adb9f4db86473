"""The paths of all files and folders that more than one module uses."""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_SUFFIX = ".safetensors"

PROVENANCE = "provenance.json"
"""The file beside tables that records what they were made from and with."""


@dataclass(frozen=True)
class Layout:
    """The folders of one audit."""

    params: Path = Path("params")
    raw: Path = Path("data/raw")
    data: Path = Path("data")
    results: Path = Path("results")

    def claims(self) -> Path:
        """The paper's claims."""
        return self.params / "paper" / "claims.yaml"

    def store(self, dataset: str) -> Path:
        """Folder of a prepared data set."""
        return self.data / dataset

    def manifest(self, dataset: str) -> Path:
        """Manifest of a prepared data set."""
        return self.store(dataset) / "manifest.json"

    def source(self, dataset: str) -> Path:
        """The source from which a data set is to be prepared."""
        return self.data / f"{dataset}.source.json"

    def runs(self) -> Path:
        """Folder of all runs."""
        return self.results / "runs"

    def run(self, run_id: str) -> Path:
        """Folder of a run."""
        return self.runs() / run_id

    def checkpoint(self, run_id: str) -> Path:
        """Weights of a run's encoder and predictor."""
        return self.run(run_id) / "checkpoint.safetensors"

    def checkpoint_along(self, run_id: str, epoch: int) -> Path:
        """Weights of a run after an epoch before its last: an intermediate checkpoint."""
        return self.run(run_id) / f"checkpoint_e{epoch:04d}.safetensors"

    def unfinished_checkpoint(self, run_id: str, epoch: int) -> Path:
        """An intermediate checkpoint of a run in training; it is deleted with the run's states."""
        return self.state(run_id) / self.checkpoint_along(run_id, epoch).name

    def record(self, run_id: str) -> Path:
        """Record of a run: its parameters, data, code and device."""
        return self.run(run_id) / "run.json"

    def run_history(self, run_id: str) -> Path:
        """A run's loss terms, epoch by epoch."""
        return self.run(run_id) / "history.parquet"

    def states(self) -> Path:
        """Folder of the states that unfinished runs are resumed from."""
        return self.results / "state"

    def state(self, run_id: str) -> Path:
        """Folder of a run's states; not the run's folder, which the workflow empties on failure."""
        return self.states() / run_id

    def run_lock(self, run_id: str) -> Path:
        """Lock held by the process that trains a run."""
        return self.states() / f"{run_id}.lock"

    def evaluations(self) -> Path:
        """Folder of all measurements of runs."""
        return self.results / "evaluation"

    def evaluation(self, batch: str) -> Path:
        """Folder of the measurements of the runs of one arm and number of epochs."""
        return self.evaluations() / batch

    def features(self, batch: str, digest: str) -> Path:
        """Folder of the features of a batch of runs."""
        return self.evaluation(batch) / f"features-{digest}"

    def measurement(self, batch: str, step: str, digest: str) -> Path:
        """Result of an evaluation step, which is one of plans.study.ALL_STEPS."""
        return self.evaluation(batch) / f"{step}-{digest}.parquet"

    def studies(self) -> Path:
        """Folder of the long tables of all studies, and of what tables are to be made from."""
        return self.results / "studies"

    def selection(self, study: str) -> Path:
        """The runs and measurements from which the study's tables are to be made."""
        return self.studies() / study / "selection.json"

    def study_table(self, study: str, kind: str) -> Path:
        """All metrics, curves or histories of a study."""
        return self.studies() / study / f"{kind}.parquet"

    def studies_selection(self) -> Path:
        """The studies from which the joint metrics are to be made."""
        return self.studies() / "selection.json"

    def claims_selection(self) -> Path:
        """The claims that are to be tested, and how."""
        return self.studies() / "claims.json"

    def metrics(self) -> Path:
        """All metrics of all studies."""
        return self.results / "metrics.parquet"

    def headlines(self) -> Path:
        """The main mean values of all studies."""
        return self.results / "metrics.json"

    def accuracies(self) -> Path:
        """The mean accuracies among them, for plots."""
        return self.results / "accuracy.csv"

    def tables(self, study: str) -> Path:
        """Folder of a study's tables."""
        return self.results / "tables" / study

    def audit_tables(self) -> Path:
        """Folder of the tables of verdicts, which cover all studies."""
        return self.results / "tables"

    def audit_table(self, name: str) -> Path:
        """A table of verdicts in full precision."""
        return self.audit_tables() / f"{name}.parquet"

    def figures(self, study: str) -> Path:
        """Folder of a study's figures."""
        return self.results / "figures" / study

    def theory(self) -> Path:
        """Folder of the checks of the theorems: tables and figures."""
        return self.results / "theory"

    def theory_selection(self) -> Path:
        """The inputs with which the theorems are to be checked."""
        return self.theory() / "selection.json"

    def theory_numbers(self, name: str) -> Path:
        """A table of numbers from which the theory's tables and figures are made."""
        return self.theory() / "numbers" / f"{name}.parquet"

    def provenances(self) -> list[Path]:
        """The existing provenance files of the audit, not counting those in published copies.

        They cover the tables of each study, the tables of all studies, and the theorems' checks.
        """
        places = [*self.audit_tables().glob("*/"), self.audit_tables(), self.theory()]
        paths = [folder / PROVENANCE for folder in sorted(places)]
        return [path for path in paths if path.exists()]

    def publication(self) -> Path:
        """Marker file of a publication, which names its study and runs."""
        return self.results / "published.json"

    def without_weights(self, run_id: str) -> Path:
        """Marker file of a run that was published or adopted, and so has no checkpoints."""
        return self.run(run_id) / "without_weights.json"

    def is_without_weights(self, run_id: str) -> bool:
        """Whether a run exists, but was published or adopted, and so has no checkpoints."""
        return self.without_weights(run_id).exists() and self.record(run_id).exists()

    def page_selection(self) -> Path:
        """The titles and captions that the page shows beside tables and figures."""
        return self.results / "report" / "selection.json"

    def page(self) -> Path:
        """The HTML page with all results."""
        return self.results / "report" / "index.html"
