"""The losses that arms minimise: prediction losses, SIGReg, floors and budgets, and their sum."""
