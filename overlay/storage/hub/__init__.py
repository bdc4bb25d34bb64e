"""The Hugging Face Hub: the only room with its client."""
