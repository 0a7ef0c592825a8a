"""One container: its plan, its steps, how it is made and removed."""
