"""Independent implementations, written the way a notebook would, that the tests compare with."""
