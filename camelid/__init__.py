"""camelid: grow, measure, chat with and serve any member of the LLaMA family, from its parent, by its published recipe."""

__version__ = "0.1.0"
