"""Prepares one immutable store of images per data set."""

SOURCES = {study(name).data.name: study(name).data for name in STUDIES}
STUDY_OF_DATASET = {study(name).data.name: name for name in STUDIES}

for name in STUDIES:
    reporting_user_errors(require_own_data)(LAYOUT.params, study(name))


def source_description(wildcards):
    """The file that describes the source of the prepared data."""
    return noted(LAYOUT.source(wildcards.dataset), SOURCES[wildcards.dataset].description())


rule:
    name:
        "data"
    input:
        [LAYOUT.manifest(dataset) for dataset in SOURCES],


checkpoint prepare:
    input:
        source_description,
    output:
        manifest=LAYOUT.manifest("{dataset}"),
        arrays=[
            LAYOUT.store("{dataset}") / f"{split}_{part}.npy"
            for split in ("train", "test")
            for part in ("images", "labels")
        ],
    log:
        LAYOUT.results / "logs/prepare/{dataset}.log",
    conda:
        "../../environment.lock.yml"
    # A cluster's profile may set more; the output doesn't depend on the number.
    threads: workflow.cores if ON_THIS_MACHINE else 1
    params:
        study=lambda wildcards: STUDY_OF_DATASET[wildcards.dataset],
        raw=LAYOUT.raw,
    shell:
        "hamjepa-audit --raw {params.raw:q} prepare --study {params.study} --threads {threads} > {log} 2>&1"
