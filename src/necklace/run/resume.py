"""From which checkpoint an interrupted run goes on, where a file of it may be damaged.

A disk that was full, a machine that lost its power or a copy that was cut leave files that are empty or end too early. The run
then goes on from the checkpoint before, or from the first epoch: later, and with equal weights and an equal record at the end.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from necklace.atomic import write_whole
from necklace.diagnostics.gate_callback import is_damaged
from necklace.run.checkpoints import Saved, read_saved
from necklace.run.folder import RunFolder


def repair(folder: RunFolder, run_hash: str, note: Callable[[str], object]) -> None:
    """Leave the checkpoints from which training can go on to what it would have been: `folder.latest` names one then, or none.

    Besides the last state that is the best epoch's. Where its file is damaged, or of another epoch, it is made again from a
    checkpoint of that epoch; else training starts anew. The learning curve and the gates come from the checkpoint as well.

    Args:
        folder: The run's folder, held by this process.
        run_hash: The run's.
        note: Is given a sentence for each damaged file.

    Raises:
        ForeignCheckpoint: A file is another run's; nothing has been changed.
        ValueError: A file is no checkpoint of a run.
        OSError: The disk cannot be read, or is full.
    """
    existing = [path for path in (folder.last, folder.previous) if path.exists()]
    if not existing:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # a best epoch alone is nothing to go on from
        return
    found = [saved for path in existing if (saved := _whole(path, note, run_hash))]
    best = _whole(folder.best, note, run_hash) if folder.best.exists() else None
    for saved in found:
        if _with_best(saved, found, best, folder.best, note):
            if is_damaged(folder.gates_path):
                note(f"{folder.gates_path}: damaged; made again from the checkpoint")
            if saved.path == folder.previous and folder.last in existing:
                note(f"{folder.path}: goes on after epoch {saved.epoch + 1}, from the checkpoint before")
            return
        saved.path.unlink()
    note(f"{folder.path}: no checkpoint is left to go on from; starting from the first epoch")
    shutil.rmtree(folder.checkpoints)


def _whole(path: Path, note: Callable[[str], object], run_hash: str) -> Saved | None:
    """A checkpoint; where it is damaged, it is removed, and said to be."""
    saved = read_saved(path, run_hash)
    if saved is None:
        note(f"{path}: damaged ({path.stat().st_size:,} bytes); not used")
        path.unlink()
    return saved


def _with_best(saved: Saved, found: list[Saved], best: Saved | None, path: Path, note: Callable[[str], object]) -> bool:
    """Whether the best epoch that a checkpoint knows of is there, or will be trained again; it is put there if need be."""
    if saved.best_epoch is None or (best and best.epoch == saved.best_epoch):
        return True
    same = next((other for other in found if other.epoch == saved.best_epoch), None)
    if same is not None:
        write_whole(path, same.path.read_bytes())
        if best is None:
            note(f"{path}: made again from {same.path.name}, which is of that epoch")
        return True
    # A kill came between the best checkpoint and the last, or the last is damaged: that epoch is trained again, and equal.
    return best is not None and best.epoch > saved.epoch
