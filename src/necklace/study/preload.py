"""Modules that a study's runs need, besides the launcher's own, imported once by its server."""

from necklace.launcher.preload import PRELOAD_WANDB

PRELOAD = ("necklace.study.execute", "necklace.study.profile", *PRELOAD_WANDB)
