"""Discrete Proxy Search: settings as genes, their evolution, banks of their losses, fitted proxies."""
