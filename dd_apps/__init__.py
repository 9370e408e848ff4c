"""Three applications of distilled sets: continual learning, architecture search, transfer."""
