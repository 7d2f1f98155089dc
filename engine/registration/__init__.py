"""The registrar: phones of lines with credentials say where they are."""
