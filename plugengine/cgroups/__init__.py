"""Control group filesystems and what limits mean in them. Public to drivers."""
