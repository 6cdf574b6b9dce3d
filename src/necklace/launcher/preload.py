"""Modules that the server imports once, so that no job has to.

They include what libraries import only in their first steps. A job need not wait for it, and a file that is edited while a
study runs is not old in one run and new in the next. multiprocessing skips a module that is missing.
"""

from necklace.config import HYDRA_LAZY

PRELOAD = (
    "necklace.launcher.no_collection",
    "necklace.run.runner",
    "necklace.backbones",
    "necklace.heads",
    "necklace.necks",
    "necklace.schedules",
    "necklace.tasks",
    "necklace.diagnostics.pictures",
    "necklace.data.cifar",
    "necklace.data.coco",
    "necklace.data.context",
    "necklace.data.context_boxes",
    "necklace.data.folder",
    "necklace.data.glyphs",
    "necklace.data.voc",
    "necklace.data.yolo",
    "necklace.options.trial",
    "torchvision.io",
    "torchvision.models.feature_extraction",
    "torchvision.transforms.v2.functional",
    "torch.utils.serialization.config",
    "fsspec.implementations.chained",
    "rich._emoji_codes",
    "requests",
    "encodings.idna",
    "importlib.resources.readers",
    *HYDRA_LAZY,
    "omegaconf._impl",
    "antlr4.LL1Analyzer",
)
# For runs with logger=wandb; the others do not need to wait for it. timm imports wandb as well.
PRELOAD_WANDB = (
    "timm",
    "necklace.tracking.wandb_logger",
    "wandb.wandb_run",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
)
# Imported last.
FREEZE = "necklace.launcher.freeze"
