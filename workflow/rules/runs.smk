"""One job a run: an arm, a number of epochs, a seed."""

RUN = "{study}-{arm}-e{epochs}-s{seed}-{digest}"


def prepared_data(wildcards):
    """The data of a run that the parameters ask for, and of no other."""
    run = RUN.format(**wildcards)
    if run not in plan(wildcards.study).runs:
        raise WorkflowError(
            f"run '{run}' is not what the parameters of study '{wildcards.study}' give now; "
            "ask for results/tables, or for a run that they give"
        )
    return LAYOUT.manifest(study(wildcards.study).data.name)


rule pretrain:
    input:
        ancient(prepared_data),
    output:
        checkpoint=LAYOUT.checkpoint(RUN),
        history=LAYOUT.run_history(RUN),
        record=LAYOUT.record(RUN),
    log:
        LAYOUT.results / "logs/pretrain" / f"{RUN}.log",
    threads: 1
    resources:
        gpu=GPU_JOB,
    shell:
        "{AUDIT} pretrain --study {wildcards.study} --arm {wildcards.arm}"
        " --epochs {wildcards.epochs} --seed {wildcards.seed}"
        " --device {config[device]} --threads {threads} > {log} 2>&1"
