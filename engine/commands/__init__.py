"""The commands of the `renvoi` program, one module per noun."""
