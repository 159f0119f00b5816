"""`vexrun init`: looks at a source tree, and writes the subject file that describes it."""
