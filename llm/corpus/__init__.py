"""Chapter 2: raw text to token windows; free of torch."""
