"""Boxes of objects: which detections are right, how precise a ranking of them is, and what proves it."""

from necklace.boxes.bootstrap import paired_interval, resampled
from necklace.boxes.evidence import MEASURES, Evidence, evidence_of
from necklace.boxes.scores import SCORE_MEASURES, ScoreEvidence
from necklace.boxes.truth import COUNTS, CROWD, IGNORED, ImageBoxes

__all__ = ["COUNTS", "CROWD", "IGNORED", "MEASURES", "SCORE_MEASURES", "Evidence", "ImageBoxes", "ScoreEvidence"]
__all__ += ["evidence_of", "paired_interval", "resampled"]
