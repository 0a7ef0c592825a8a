"""Directory trees: walked, copied, removed, compared, and read as overlay layers. Public to drivers."""
