"""The words of the page, by what they speak of."""
