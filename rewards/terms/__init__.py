"""One shaping method, one file."""
