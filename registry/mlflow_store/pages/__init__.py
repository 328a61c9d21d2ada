"""What MLflow shows of checkpoints: verdicts, proxies and outcomes as Markdown."""
