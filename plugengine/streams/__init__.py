"""The bytes of a container's processes: the protocol of attached clients, standard streams, logs."""
