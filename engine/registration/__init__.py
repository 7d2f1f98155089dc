"""The registrar for phones of lines with credentials."""
