"""The theorems that the paper rests on, each as a formula and a numerical check of it."""
