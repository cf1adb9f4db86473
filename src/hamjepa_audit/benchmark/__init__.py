"""How fast the parts are, beside a plain implementation of the same mathematics."""
