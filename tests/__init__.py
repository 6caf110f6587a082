"""The tests, as a package: others install a package of this name, which must not come first."""
