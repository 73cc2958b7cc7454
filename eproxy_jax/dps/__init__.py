"""This package holds Discrete Proxy Search: settings as genes, their evolution, loss banks, fitted proxies."""
