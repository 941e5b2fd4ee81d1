"""HTML and figures that know no run: formatting, palette, canvas, frame."""
