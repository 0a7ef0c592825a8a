"""What a container may do: capabilities, devices, masked paths, system calls."""
