"""necklace: ablations of vision necks that can be trusted."""

from necklace.inference import load

__all__ = ["load"]
