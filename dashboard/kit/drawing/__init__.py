"""What a page shows: pieces of HTML, figures, answers, words and tables."""
