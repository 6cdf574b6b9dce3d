"""What the jobs of `test_launcher_slurm.py` call."""

from omegaconf import DictConfig


def double(config: DictConfig) -> int:
    """Twice the seed."""
    if config.seed == 13:
        raise ValueError("13 brings no luck")
    return 2 * config.seed
