"""From a prompt to an answer: sampling, stopping, streaming, many prompts at once, and conversations."""
