"""Runs side by side on this machine, each in a process forked from a warm server."""
