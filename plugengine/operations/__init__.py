"""What the verbs of `Engine` do, built from the rooms below."""
