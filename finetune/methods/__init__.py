"""How weights learn: LoRA, the frozen tower, the loss."""
