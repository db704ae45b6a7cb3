"""What the commands share: text that is fit for a terminal, output that never blocks, signals."""
