"""Training losses: logits (N, K, S) and integer labels (N, S) to a scalar."""
