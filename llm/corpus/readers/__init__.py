"""Read documents and rows from files of any kind."""
