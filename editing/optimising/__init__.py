"""How an edit descends: its terms, its loop, its stops, and the matrices that are optimised."""
