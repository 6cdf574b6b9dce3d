"""What is measured on boxes: the metrics' names, and what each is."""

from typing import NamedTuple

from necklace.boxes.matching import AREAS, IOUS
from necklace.boxes.precision import Rule, coco, voc07, voc12


class Measure(NamedTuple):
    """A mean average precision: by which rule, in which range of areas, at which of `IOUS`, with all classes as one?

    `area` is None for VOC's matching. Without a rule it is no average precision, but the share of right classes: of the objects
    that were found with all classes as one, those whose detection has their class.
    """

    rule: Rule | None
    area: int | None = 0
    ious: tuple[int, ...] = tuple(range(len(IOUS)))
    together: bool = False


MEASURES = {
    "box_map": Measure(coco),
    "box_map50": Measure(coco, ious=(0,)),
    "box_map75": Measure(coco, ious=(5,)),
    "box_map07": Measure(voc07, area=None),
    "box_map12": Measure(voc12, area=None),
    **{f"box_map_{name}": Measure(coco, area=number) for number, name in enumerate(AREAS) if number},
    "box_loc50": Measure(coco, ious=(0,), together=True),
    "box_loc": Measure(coco, together=True),
    "box_class50": Measure(None, ious=(0,), together=True),
}
