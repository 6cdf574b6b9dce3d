"""Options before a run starts: each key of a config is read by something, and each value is one that its reader takes."""
