"""The zoo: networks that map (N, C, S) to logits (N, K, S), all built from one ``NetworkSpec``."""
