"""Tasks: loss, metrics and optimizer for one kind of label."""

from necklace.tasks.base import Task, correctness
from necklace.tasks.classification import Classification
from necklace.tasks.detection import Detection
from necklace.tasks.multilabel import MultiLabel, eleven_point_precision

__all__ = ["Classification", "Detection", "MultiLabel", "Task", "correctness", "eleven_point_precision"]
