"""Present the results: reports, pictures, cards, comparisons."""
