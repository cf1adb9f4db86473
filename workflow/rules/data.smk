"""Images become one immutable store a data set."""

SOURCES = {study(name).data.name: study(name).data for name in STUDIES}
STUDY_OF_DATASET = {study(name).data.name: name for name in STUDIES}

for name in STUDIES:
    if study(name).data != SOURCES[study(name).data.name]:
        raise WorkflowError(
            f"studies {STUDIES}: two of them describe the data set '{study(name).data.name}' "
            "differently; give one of the two another data.name"
        )


def source_description(wildcards):
    """What the prepared data are made of."""
    source = SOURCES[wildcards.dataset]
    content = source.model_dump(mode="json", exclude={"digest"})
    return noted(LAYOUT.source(wildcards.dataset), content)


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
    # On a cluster its profile may give more; no byte depends on it.
    threads: workflow.cores if ON_THIS_MACHINE else 1
    params:
        study=lambda wildcards: STUDY_OF_DATASET[wildcards.dataset],
        raw=LAYOUT.raw,
    shell:
        "hamjepa-audit --raw {params.raw:q} prepare --study {params.study} --threads {threads} > {log} 2>&1"
