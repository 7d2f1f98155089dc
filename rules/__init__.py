"""What should happen to a call. Pure, except for the store and what it is made of."""
