"""Call records and what they cost: written once each, metered while calls stand."""
