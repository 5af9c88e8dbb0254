"""Facts about language models: sizes, prices and context lengths."""
