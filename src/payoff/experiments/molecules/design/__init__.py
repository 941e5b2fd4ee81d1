"""Molecules designed from few labels: QM9's, or those of a file of one's own."""
