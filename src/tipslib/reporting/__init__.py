"""How do records become a book: figures, tables, claims with their verdicts, pages."""

VEGA_LITE = "application/vnd.vegalite.v5+json"
"""The newest Vega-Lite type that JupyterLab 4 draws by itself."""
