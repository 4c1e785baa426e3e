"""Modules that tests here share import packages that may be missing, so pytest is not to look for examples in them."""

collect_ignore_glob = ["_*.py"]
