"""The cell spaces of NDS: DARTS, ENAS, PNAS, NASNet, Amoeba."""
