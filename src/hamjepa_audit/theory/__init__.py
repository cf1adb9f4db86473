"""The theorems that the paper rests on, each as a formula with a numerical check."""
