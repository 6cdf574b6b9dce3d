"""necklace: ablations of vision necks that can be trusted."""

__version__ = "0.1.0"
