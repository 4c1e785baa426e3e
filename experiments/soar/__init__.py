"""SOAR: robustness from a second-order expansion of the loss, and what attacks other than PGD make of it."""
