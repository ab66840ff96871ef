"""How often each task is drawn, and which example is drawn when."""
