"""How close a LoRA run on a quantised base stays to the same run on the base in 16 bits."""
