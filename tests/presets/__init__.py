"""Presets: their values, what they set of a conversation, those that people keep, and the pages of all that."""
