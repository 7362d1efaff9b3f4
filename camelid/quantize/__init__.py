"""Weights in few bits: what each form stores, and its plain definition. Kernels elsewhere are tested against these."""
