"""The program whose instructions are counted."""
