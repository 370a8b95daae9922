"""What leaves a step: links, parts of a report, figures that other views show."""
