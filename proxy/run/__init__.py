"""From the command line to a serving process, and its shutdown."""
