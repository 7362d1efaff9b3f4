"""camelid: any member of the LLaMA family, grown from its parent by its published recipe, measured, chatted with."""

__version__ = "0.1.0"
