"""The data-geometry study, training half: adversarial training focused on the least robust images."""
