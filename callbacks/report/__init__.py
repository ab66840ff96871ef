"""Reports of evaluations: numbers, text, figures and the HTML page."""
