"""The optimizer-robustness study: the same network trained with SGD, Adam, RMSProp and signGD."""
