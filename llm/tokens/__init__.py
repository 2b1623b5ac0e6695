"""Turn text into token ids and sliding windows."""
