"""The audit: data -> runs -> features -> measurements -> tables and figures.

`snakemake --cores all results/tables` audits the studies of params/config.yaml; others with
`--config studies='[cifar100]'`.
"""

from snakemake.utils import min_version

min_version("9.27")


configfile: "params/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/theory.smk"
