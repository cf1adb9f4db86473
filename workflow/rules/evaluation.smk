"""Frozen encoders are measured, all seeds of an arm in one job.

Files are named by the content that decides their numbers, so their times don't matter (ancient).
"""

ARM_OPTIONS = "--study {wildcards.study} --arm {wildcards.arm} --epochs {wildcards.epochs}"


rule:
    name:
        "results/evaluation"
    input:
        lambda wildcards: [path for name in STUDIES for path in plan(name).measurements(*ALL_STEPS)],


rule extract:
    input:
        ancient(checkpoints_of),
    output:
        temp(directory(LAYOUT.features(BATCH, "{features}"))),
    log:
        LAYOUT.results / "logs/extract" / f"{BATCH}-{{features}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    params:
        device=CONFIG.device,
        runs_per_gpu=CONFIG.runs_per_gpu,
    shell:
        f"hamjepa-audit extract {ARM_OPTIONS}"
        " --device {params.device} --runs-per-gpu {params.runs_per_gpu}"
        " --threads {threads} > {log} 2>&1"


rule knn:
    input:
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "knn", "{step}"),
    log:
        LAYOUT.results / "logs/knn" / f"{BATCH}-{{step}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    params:
        device=CONFIG.device,
        runs_per_gpu=CONFIG.runs_per_gpu,
    shell:
        f"hamjepa-audit knn {ARM_OPTIONS}"
        " --device {params.device} --runs-per-gpu {params.runs_per_gpu}"
        " --threads {threads} > {log} 2>&1"


rule probe:
    input:
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "probe", "{step}"),
    log:
        LAYOUT.results / "logs/probe" / f"{BATCH}-{{step}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    params:
        device=CONFIG.device,
        runs_per_gpu=CONFIG.runs_per_gpu,
    shell:
        f"hamjepa-audit probe {ARM_OPTIONS}"
        " --device {params.device} --runs-per-gpu {params.runs_per_gpu}"
        " --threads {threads} > {log} 2>&1"


rule geometry:
    input:
        ancient(features_of),
    output:
        metrics=LAYOUT.measurement(BATCH, "geometry", "{step}"),
        curves=LAYOUT.measurement(BATCH, "curves", "{step}"),
    log:
        LAYOUT.results / "logs/geometry" / f"{BATCH}-{{step}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    shell:
        f"hamjepa-audit geometry {ARM_OPTIONS} --threads {{threads}} > {{log}} 2>&1"


rule trajectory:
    input:
        ancient(checkpoints_of),
    output:
        LAYOUT.measurement(BATCH, "trajectory", "{step}"),
    log:
        LAYOUT.results / "logs/trajectory" / f"{BATCH}-{{step}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    params:
        device=CONFIG.device,
        runs_per_gpu=CONFIG.runs_per_gpu,
    shell:
        f"hamjepa-audit trajectory {ARM_OPTIONS}"
        " --device {params.device} --runs-per-gpu {params.runs_per_gpu}"
        " --threads {threads} > {log} 2>&1"


rule dynamics:
    input:
        ancient(checkpoints_of),
        ancient(features_of),
    output:
        LAYOUT.measurement(BATCH, "dynamics", "{step}"),
    log:
        LAYOUT.results / "logs/dynamics" / f"{BATCH}-{{step}}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=GPU_JOB,
    params:
        device=CONFIG.device,
        runs_per_gpu=CONFIG.runs_per_gpu,
    shell:
        f"hamjepa-audit dynamics {ARM_OPTIONS}"
        " --device {params.device} --runs-per-gpu {params.runs_per_gpu}"
        " --threads {threads} > {log} 2>&1"
