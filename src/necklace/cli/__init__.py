"""The commands: `necklace train | ablate | inspect | dashboard | bench`."""
