"""Frozen encoders are measured, all seeds of an arm in one job.

Files are named by the content that decides their numbers, so their times don't matter (ancient).
"""

BATCH = "{study}-{arm}-e{epochs}-{digest}"
ARM_OPTIONS = "--study {wildcards.study} --arm {wildcards.arm} --epochs {wildcards.epochs}"


def batch(wildcards):
    """The batch of runs that an evaluation file belongs to."""
    name = BATCH.format(**wildcards)
    batches = plan(wildcards.study).batches
    if name not in batches:
        raise WorkflowError(
            f"batch '{name}' is not what the parameters of study '{wildcards.study}' give now"
        )
    return batches[name]


def checkpoints_of(wildcards):
    """The checkpoints of a batch."""
    return [LAYOUT.checkpoint(name) for name in batch(wildcards).run_ids]


def features_of(wildcards):
    """The features of a batch."""
    return batch(wildcards).features


rule extract:
    input:
        ancient(checkpoints_of),
    output:
        temp(directory(LAYOUT.features(BATCH, "{features}"))),
    log:
        LAYOUT.results / "logs/extract" / f"{BATCH}-{{features}}.log",
    threads: 1
    resources:
        gpu=GPU_JOB,
    shell:
        f"{{AUDIT}} extract {ARM_OPTIONS}"
        " --device {config[device]} --threads {threads} > {log} 2>&1"


rule knn:
    input:
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "knn", "{step}"),
    log:
        LAYOUT.results / "logs/knn" / f"{BATCH}-{{step}}.log",
    threads: 1
    resources:
        gpu=GPU_JOB,
    shell:
        f"{{AUDIT}} knn {ARM_OPTIONS}" " --device {config[device]} --threads {threads} > {log} 2>&1"


rule probe:
    input:
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "probe", "{step}"),
    log:
        LAYOUT.results / "logs/probe" / f"{BATCH}-{{step}}.log",
    threads: 1
    resources:
        gpu=GPU_JOB,
    shell:
        f"{{AUDIT}} probe {ARM_OPTIONS}"
        " --device {config[device]} --threads {threads} > {log} 2>&1"


rule geometry:
    input:
        ancient(features_of),
    output:
        metrics=LAYOUT.measurement(BATCH, "geometry", "{step}"),
        curves=LAYOUT.measurement(BATCH, "curves", "{step}"),
    log:
        LAYOUT.results / "logs/geometry" / f"{BATCH}-{{step}}.log",
    threads: 1
    shell:
        f"{{AUDIT}} geometry {ARM_OPTIONS} --threads {{threads}} > {{log}} 2>&1"
