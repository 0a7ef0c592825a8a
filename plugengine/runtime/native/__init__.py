"""The native runtime: clone3(2), a gate, and a child that becomes the command with system calls only."""
