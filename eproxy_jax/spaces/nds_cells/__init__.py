"""This package holds the cell spaces of NDS: DARTS, ENAS, PNAS, NASNet, Amoeba."""
