"""The metrics that a study can be about, by task, and what is usual for each."""

from hydra.utils import get_class

from necklace.options.signatures import defined

# Of each task, by its class: the metrics that a study can ask for, first what it is known by; and those of one class.
_BOXES = ("map", "map50", "map75", "map07", "map12", "map_small", "map_medium", "map_large", "loc", "loc50", "class50")
TASK_METRICS = {
    "necklace.tasks.classification.Classification": (("test/acc", "test/balanced_acc"), ("test/class_acc/",)),
    "necklace.tasks.multilabel.MultiLabel": (("test/map", "test/map07"), ("test/ap/",)),
    "necklace.tasks.detection.Detection": (
        tuple(f"test/box_{name}" for name in _BOXES),
        ("test/box_ap/", "test/box_ap50/"),
    ),
}
METRICS = tuple(name for names, _ in TASK_METRICS.values() for name in names)
METRICS_OF_A_CLASS = tuple(name for _, names in TASK_METRICS.values() for name in names)
METRIC_NAMES = f"{', '.join(METRICS)}, or {' or '.join(f'{name}CLASS' for name in METRICS_OF_A_CLASS)}"


def usual_metric(task: str) -> str:
    """The metric that a task is known by, which a study is about if it names none.

    Args:
        task: The class, as a config's `_target_` has it.
    """
    known = TASK_METRICS.get(defined(task))
    return known[0][0] if known else get_class(task).monitor.replace("val/", "test/")


def known_metric(name: str) -> str:
    """The name of a metric that a table can be made of: a share in [0, 1], the larger the better.

    Raises:
        ValueError: It is not one.
    """
    if name not in METRICS and not (name.startswith(METRICS_OF_A_CLASS) and name.rpartition("/")[2]):
        raise ValueError(f"{name}: must be one of {METRIC_NAMES}")
    return name


def default_margin(metric: str) -> float:
    """The smallest difference that matters where study.yaml does not say: 1 point of a mean average precision, else 0.5."""
    return 1.0 if metric.startswith(("test/map", "test/ap/", "test/box_")) else 0.5
