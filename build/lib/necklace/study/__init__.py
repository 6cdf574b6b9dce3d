"""Studies: which cells answer a question, which of them are missing, and what they say together."""
