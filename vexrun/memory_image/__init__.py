"""A guest's memory when its kernel died: taken over QMP, kept compressed, and read."""
