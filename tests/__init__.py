"""Tests. Their outcome must not depend on what a shell, a cluster's job or a user's settings have put into the environment.

Here, as this module is imported before any other of the tests: Lightning and W&B read their variables when they are imported.
"""

import os

PREFIXES = ("SLURM_", "WANDB_", "HYDRA_", "PMI_", "OMPI_", "LOCAL_", "TORCHELASTIC_", "NECKLACE_")
NAMES = (
    "CUDA_VISIBLE_DEVICES",
    "RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "JSM_NAMESPACE_RANK",
)
NAMES += ("MPLBACKEND", "MPLCONFIGDIR", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PYTHONWARNINGS")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

for name in list(os.environ):
    if name.startswith(PREFIXES) or name in NAMES or name.lower() in PROXIES:
        del os.environ[name]
