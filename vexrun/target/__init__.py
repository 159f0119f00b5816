"""Where tests run: one kind of target a module."""
