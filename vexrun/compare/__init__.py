"""What changed between two runs, or two series of runs, and whether it got worse."""
