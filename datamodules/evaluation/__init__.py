"""What is asked: prompts to answer and options to rank, each once over all replicas."""
