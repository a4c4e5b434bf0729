"""From a plan to a placed network and its training step: precision, memory, timing, processes."""
