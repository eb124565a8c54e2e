"""Pages that people open: one HTML file that carries its figures, styles and scripts inside."""
