"""What a true box says about how it is measured."""

COUNTS = 0  # an object that has to be found
IGNORED = 1  # VOC's `difficult`, or less than 30 % of it is left after a crop: finding it is neither right nor wrong
CROWD = 2  # COCO's `iscrowd`: a box around many objects, ignored as well, which may match many predictions
