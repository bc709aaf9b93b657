"""audiorl: from recordings to a better audio language model by reinforcement learning."""

__version__ = "0.1.0"
