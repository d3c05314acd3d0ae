"""Speed, latency and memory of models, end to end."""
