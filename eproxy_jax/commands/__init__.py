"""The commands of ``eproxy``: one module each, with ``add_parser`` and ``run``."""
