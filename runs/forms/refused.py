"""The refusal of something typed: a sentence that says what to type instead."""


class Refused(ValueError):
    """What was typed cannot be read."""
