"""Call records and usage, each written once; caps enforced during calls."""
