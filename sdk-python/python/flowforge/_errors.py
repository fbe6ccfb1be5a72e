"""What goes wrong before anything runs. Afterwards nothing raises: a task never fails because of its log."""


class FlowForgeError(Exception):
    """A setting is wrong, or asks for what is not there yet. The message says which and what to do."""
