"""What a run starts from, what it saves, and the record beside each checkpoint of what made it."""
