"""Docker's Engine API: the shapes of its objects."""
