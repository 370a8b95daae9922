"""A visit as a report that opens without a network, and as a script and a notebook that make its run again."""
