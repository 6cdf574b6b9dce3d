"""necklace: ablations of vision necks that can be trusted."""
