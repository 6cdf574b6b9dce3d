"""Do images, sizes, batch size, sampler and augmentation go together?

Asked without Lightning, as a plan asks before it trains anything.
"""

from necklace.data.augment import Augmentation
from necklace.data.images import ImageSet
from necklace.data.sampler import check_sampler
from necklace.data.sizes import Native, Sizes

# What else a `DataModule` takes from a config, besides what is asked here.
OTHER_OPTIONS = ("eval_sizes", "mean", "std")


def checked_size(train: ImageSet, sizes: Sizes, batch_size: int, sampler: object, augment: Augmentation) -> tuple[int, int]:
    """Check that batches can be made, and give a typical height and width of their images.

    Args:
        train: The training images.
        sizes: The plan of sizes.
        batch_size: Images in a training step, over all ranks.
        sampler: The option.
        augment: The augmentation of training images.

    Returns:
        The fixed size, the evaluation size, or the most frequent native one.

    Raises:
        ValueError: An option is out of range, or there are too few images for it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    if len(train) < batch_size:
        raise ValueError(f"batch_size={batch_size}: larger than the training split of {len(train)} images")
    check_sampler(sampler, train.labels)
    if train.boxes is not None and augment.crop_padding:
        raise ValueError(
            f"data.augment.crop_padding={augment.crop_padding}: must be 0 where images have boxes, as the reflection at "
            "the border shows things that have no box (data.augment.crop_scale cuts out boxes)"
        )
    if train.boxes is None and augment.mosaic:
        raise ValueError(
            f"data.augment.mosaic={augment.mosaic}: must be 0 where images have no boxes (task=detection reads them)"
        )
    if isinstance(sizes, Native):
        shapes, counts = sizes.native_shapes(train.shapes).unique(dim=0, return_counts=True)
        height, width = shapes[counts.argmax()].tolist()
        return height, width
    return sizes.eval_steps(train.shapes[:1], 1, 0, 1)[0].size
