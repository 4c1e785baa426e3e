"""The gradient-norm study: robustness from the norm, and from the direction, of input gradients."""
