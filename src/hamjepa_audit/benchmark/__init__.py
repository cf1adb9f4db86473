"""Speed of the parts, compared with a plain implementation of the same mathematics."""
