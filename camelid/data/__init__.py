"""From files of text and dialogues to batches: read, tokenise or render, mix, lay end to end."""
