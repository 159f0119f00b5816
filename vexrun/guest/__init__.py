"""What tests that run against a target get: the pytest plugin, its fixtures, its protocol."""
