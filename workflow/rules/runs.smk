"""Pretraining: one job per run, which is an arm with a number of epochs and a seed."""


rule:
    name:
        "results/runs"
    input:
        all_records,


rule pretrain:
    input:
        ancient(prepared_data),
    output:
        checkpoint=LAYOUT.checkpoint(RUN),
        history=LAYOUT.run_history(RUN),
        record=LAYOUT.record(RUN),
    log:
        LAYOUT.results / "logs/pretrain" / f"{RUN}.log",
    conda:
        "../../environment.lock.yml"
    threads: 1
    resources:
        gpu=training_gpus,
    params:
        launcher=launcher,
    shell:
        "{params.launcher}hamjepa-audit pretrain --study {wildcards.study} --arm {wildcards.arm}"
        f" --epochs {{wildcards.epochs}} --seed {{wildcards.seed}} {ON_DEVICE}"
