"""What the parts of a config are given by the run, and where a `_target_` stands that has moved; imports nothing."""

# Options of `data` that reach its source and its sizes by interpolation.
REFERRED = ("root", "on_corrupt", "size", "download", "year", "memory_gib", "cache", "background")
REFERRED += ("max_pixels", "links", "test_fraction", "labels", "boxes", "annotations")

# What the run gives each part of a config itself, and the config may not: the names, and how many arguments by their place.
GIVEN: dict[str, tuple[tuple[str, ...], int]] = {
    "neck": (("channels",), 0),
    "head": (("channels", "num_classes", "map_size", "stride", "strides"), 0),
    "task": (("model", "classes", "optimizer", "schedule", "seed"), 0),
    "optimizer": ((), 1),
    "schedule": ((), 3),
    "data": (("source", "splits", "sizes", "augment", "batch_size", "seed", "augment_seed"), 0),
    "logger": (("folder", "config", "choices", "overrides"), 0),
}

# Where a `_target_` that has moved stands now. A run's identity keeps the name that the config gives.
ALIASES = {
    "necklace.loggers.wandb_logger": "necklace.tracking.wandb_logger.wandb_logger",
    "necklace.loggers.csv_logger": "necklace.tracking.csv_logger.csv_logger",
}
