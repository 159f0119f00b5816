"""Checks of the source and of the built module that need no kernel (category `static`)."""
