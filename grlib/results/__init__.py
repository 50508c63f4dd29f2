"""From stored rows to pages: metrics, tables, claims, figures, the report."""
