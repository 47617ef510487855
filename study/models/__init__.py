"""Models: from names and folders to classifiers and tokenizers."""
