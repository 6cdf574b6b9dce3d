"""True and predicted boxes, and what is measured on them; numpy only."""
