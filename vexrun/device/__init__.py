"""A non-critical test machine: what the owner says of it, what it says itself, and what follows."""
