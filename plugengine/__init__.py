"""A container engine you can take apart."""
