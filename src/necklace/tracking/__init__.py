"""Loggers, and the runs, studies and dashboards of Weights & Biases. Nothing outside this package imports wandb."""
