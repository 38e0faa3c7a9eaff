"""What is news, how important it is, and which channel receives it when: configuration, events, origins, ranking and policy."""
