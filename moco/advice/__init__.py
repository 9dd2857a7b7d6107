"""What a person is told before work begins."""
