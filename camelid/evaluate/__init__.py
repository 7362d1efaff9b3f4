"""Measuring a member: scores on the desk world, likelihoods, intervals, and cards that say whether a claim held."""
