"""The duel: the same SIPp work through Renvoi, Kamailio and Sippy B2BUA, in turn, in one run."""
