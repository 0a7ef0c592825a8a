"""Read the values of flags; pure, so that tables of examples test them."""
