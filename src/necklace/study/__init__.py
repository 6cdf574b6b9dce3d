"""Studies: the runs that answer a question, and which of them still have to be trained."""
