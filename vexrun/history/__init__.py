"""All runs at once: an index beside the run directories, what it tells, and how it is drawn."""
