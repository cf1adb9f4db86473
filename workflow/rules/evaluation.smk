"""Measures frozen encoders, all seeds of an arm in one job.

Files are named by a digest of everything that determines their numbers, so their modification times
are ignored (`ancient`).
"""

OF_BATCH = "--study {wildcards.study} --arm {wildcards.arm} --epochs {wildcards.epochs}"


rule:
    name:
        "results/evaluation"
    input:
        lambda wildcards: [path for name in STUDIES for path in plan(name).measurements(*ALL_STEPS)],


rule extract:
    input:
        ancient(checkpoints_of),
    output:
        temp(directory(LAYOUT.features(BATCH, "{settings}"))),
    log:
        LAYOUT.results / "logs/extract" / f"{BATCH}-{{settings}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    shell:
        f"hamjepa-audit extract {OF_BATCH} {ON_DEVICE}"


rule knn:
    input:
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "knn", "{settings}"),
    log:
        LAYOUT.results / "logs/knn" / f"{BATCH}-{{settings}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    params:
        command="knn",
    shell:
        f"hamjepa-audit {{params.command}} {OF_BATCH} {ON_DEVICE}"


use rule knn as probe with:
    output:
        LAYOUT.measurement(BATCH, "probe", "{settings}"),
    log:
        LAYOUT.results / "logs/probe" / f"{BATCH}-{{settings}}.log",
    params:
        command="probe",


use rule knn as trajectory with:
    input:
        ancient(checkpoints_of),
    output:
        LAYOUT.measurement(BATCH, "trajectory", "{settings}"),
    log:
        LAYOUT.results / "logs/trajectory" / f"{BATCH}-{{settings}}.log",
    params:
        command="trajectory",


use rule knn as dynamics with:
    input:
        ancient(checkpoints_of),
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "dynamics", "{settings}"),
    log:
        LAYOUT.results / "logs/dynamics" / f"{BATCH}-{{settings}}.log",
    params:
        command="dynamics",


rule geometry:
    input:
        ancient(features_of),
    output:
        metrics=LAYOUT.measurement(BATCH, "geometry", "{settings}"),
        curves=LAYOUT.measurement(BATCH, "curves", "{settings}"),
    log:
        LAYOUT.results / "logs/geometry" / f"{BATCH}-{{settings}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    shell:
        f"hamjepa-audit geometry {OF_BATCH} --threads {{threads}} > {{log}} 2>&1"
