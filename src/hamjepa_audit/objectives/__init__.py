"""What an arm minimises: prediction losses, SIGReg, floors and budgets, and their sum."""
