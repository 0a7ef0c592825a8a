"""A prepared process that commands are forked from: starting an interpreter and importing costs more than a container.

The first `pe` leaves one behind; it ends by itself when idle. `client.main` is what the `pe` script calls: it hands its
arguments, environment, directory and standard descriptors over and passes signals and the exit code on. Where no
prepared process of exactly the caller's kind is there, the command runs in the caller's own process, as if there were
no such thing. PLUGENGINE_WARM=0 turns it off.
"""
