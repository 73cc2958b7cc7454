"""Networks as data: instructions run one after the other on weights in one bank and maps on one tape."""
