"""What each serving engine does with a checkpoint: rules as data and small pure functions; profiles by version."""
