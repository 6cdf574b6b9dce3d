"""Removal that stays where it is: a link is removed itself, and never what it leads to."""

import shutil
from pathlib import Path


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # which does not follow the links in it either
    else:
        path.unlink()


def check_no_link(*folders: Path) -> None:
    """Check that folders in which files are about to be replaced or removed are none that only lead elsewhere.

    Raises:
        ValueError: One is a link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise ValueError(
                f"{folder}: is a link to {folder.readlink()}: files would be replaced and removed there; remove the link,"
                " or put a folder in its place"
            )
